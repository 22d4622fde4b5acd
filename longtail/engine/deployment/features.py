# SPDX-License-Identifier: Apache-2.0
"""Passes over a training set: what enters the last layer of a classifier, on every task.

Images are those of testing, without augmentation. Processes share them.

Shape alphabet:
    N: samples of a batch: images, pixels with a label, or annotated boxes
    M: boxes of an image
    C: channels of the features
    H, W: height and width of the pixel features
    h, w: height and width of an image that the model reads
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.structures import Boxes, BoxMode
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from longtail.engine.inference.build import build_inference
from longtail.engine.inference.sliding_window import SlidingWindowInference, window_maps
from longtail.engine.training.data_sets import build_mapper, training_records
from longtail.losses import BOXES, IMAGES, PIXELS
from longtail.losses.pixels import nearest_labels
from longtail.modeling.linear_classifiers import LinearClassifiers
from longtail.modeling.nearest_mean import Samples

# No gradients are kept, and features are small: any number of images that fits a step does.
BATCH_SIZE = 64
# Starts a pass over this process's samples.
Read = Callable[[], Samples]


def one_pass(cfg: CfgNode, mapper: Callable[[dict], Any], batch_size: int = 1) -> DataLoader:
    """Each training image once, in lists of what the mapper gives; processes share the images.

    Args:
        cfg: read for DATASETS.TRAIN and DATALOADER.NUM_WORKERS.
        mapper: of a record.
        batch_size: the most that a list holds.

    Raises:
        ValueError: DATASETS.TRAIN is empty.
    """
    records = training_records(cfg)
    return DataLoader(
        MapDataset(DatasetFromList(records, copy=False), mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
    )


@contextlib.contextmanager
def reading(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Iterator[Read]:
    """Read training samples as they enter a model's classifiers, in as many passes as one likes.

    Args:
        cfg: read for DATASETS.TRAIN, INPUT, TEST.SEM_SEG and DATALOADER.NUM_WORKERS.
        model: in evaluation mode inside of the context.
        found: its classifiers.

    Yields:
        A function that starts a pass over the samples of this process: images; annotated boxes
        without crowds; or the cells of the pixel features that have a label, window by window with
        TEST.SEM_SEG.MODE slide. It gives (N, C) features for each layer, and (N,) labels.

    Raises:
        ValueError: DATASETS.TRAIN is empty, or has another number of classes than the model.
        OSError: an image cannot be read.
    """
    readers = {IMAGES: _read_images, PIXELS: _read_pixels, BOXES: _read_boxes}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield readers[found.task](cfg, model, found)
    finally:
        model.train(was_training)


def _read_images(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Read:
    loader = one_pass(cfg, ClassificationDatasetMapper(cfg, is_train=False), BATCH_SIZE)

    def read() -> Samples:
        for batch in loader:
            yield [model.features(batch)], torch.tensor([item["label"] for item in batch])

    return read


def _read_pixels(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Read:
    options = {**SemSegDatasetMapper.from_config(cfg, is_train=False), "is_train": True}
    loader = one_pass(cfg, SemSegDatasetMapper(**options))
    inference = build_inference(cfg, model)
    ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    [layer] = found.layers

    def read() -> Samples:
        with _inputs_of(model.backbone, layer) as inputs:
            for [item] in loader:
                image, labels = item["image"], item["sem_seg"]
                windows = [(slice(None), slice(None))]
                if isinstance(inference, SlidingWindowInference):
                    windows = inference.windows(image)
                for rows, columns in windows:
                    window_maps(model, image[:, rows, columns])
                    size, features = inputs[model.backbone].shape[2:], inputs[layer]
                    yield _labelled(features, labels[rows, columns], size, ignore)

    return read


@contextlib.contextmanager
def _inputs_of(*modules: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep what enters modules: of their last call, while the context is open."""
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, entered: tuple[Tensor, ...]) -> None:
        inputs[module] = entered[0]

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _labelled(
    features: Tensor, labels: Tensor, size: torch.Size, ignore: int
) -> tuple[list[Tensor], Tensor]:
    """The cells with a label of an image's (1, C, H, W) features.

    Args:
        features: of the image, padded to ``size``.
        labels: (h, w).
        size: height and width with the padding, >= h and w.
        ignore: label of the pixels that are left out.
    """
    height, width = labels.shape
    padded = F.pad(labels, (0, size[1] - width, 0, size[0] - height), value=ignore)
    cells = nearest_labels(padded[None], features.shape[2:]).flatten().to(features.device)
    valid = cells != ignore
    return [features[0].flatten(1).T[valid]], cells[valid]


class _ImageWithBoxes(NamedTuple):
    """An image as in testing, its (M, 4) boxes (x0, y0, x1, y1) in its pixels, and (M,) classes."""

    inputs: dict
    boxes: Tensor
    classes: Tensor


class _BoxMapper:
    """From a record with annotations to an image as in testing, with its boxes; crowds left out."""

    def __init__(self, mapper: Callable[[dict], dict]) -> None:
        self.mapper = mapper

    def __call__(self, record: dict) -> _ImageWithBoxes:
        found = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in found]
        inputs = self.mapper(record)
        height, width = inputs["image"].shape[1:]
        scale = torch.tensor([width / record["width"], height / record["height"]] * 2)
        classes = torch.tensor([a["category_id"] for a in found], dtype=torch.int64)
        return _ImageWithBoxes(inputs, torch.tensor(boxes).reshape(-1, 4) * scale, classes)


def _read_boxes(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Read:
    loader = one_pass(cfg, _BoxMapper(build_mapper(cfg, cfg.DATASETS.TRAIN[0], False)))
    heads = model.roi_heads.box_head
    heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]

    def read() -> Samples:
        for [(inputs, boxes, classes)] in loader:
            maps = model.backbone(model.preprocess_image([inputs]).tensor)
            maps = [maps[name] for name in model.roi_heads.box_in_features]
            pooled = model.roi_heads.box_pooler(maps, [Boxes(boxes.to(model.device))])
            yield [head(pooled).flatten(1) for head in heads], classes

    return read
