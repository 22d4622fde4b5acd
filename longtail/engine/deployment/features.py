# SPDX-License-Identifier: Apache-2.0
"""One pass over a training set: what enters the last layer of an image or a box classifier.

Shape alphabet:
    N: images of the training set, or annotated boxes
    M: boxes of an image
    C: channels of the features
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, BoxMode
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.data import DataLoader

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.engine.training.data_sets import build_mapper, training_records
from longtail.modeling.classification import ImageClassifier

# No gradients are kept, and features are small: any number of images that fits a step does.
BATCH_SIZE = 64


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


@torch.no_grad()
def training_features(cfg: CfgNode, model: ImageClassifier) -> tuple[Tensor, Tensor]:
    """The features of the training images, transformed as in testing, without augmentation.

    Several processes share the images; all of them get the whole result.

    Args:
        cfg: read for DATASETS.TRAIN, INPUT and DATALOADER.NUM_WORKERS.
        model: its mode is as before afterwards.

    Returns:
        (N, C) features and (N,) labels, on the CPU, in the order of the data sets.

    Raises:
        ValueError: DATASETS.TRAIN is empty, or has another number of classes than the model.
        OSError: an image cannot be read.
    """
    loader = one_pass(cfg, ClassificationDatasetMapper(cfg, is_train=False), BATCH_SIZE)
    was_training = model.training
    model.eval()
    features, labels = [], []
    for batch in loader:
        features.append(model.features(batch).cpu())
        labels += [item["label"] for item in batch]
    model.train(was_training)
    parts = comm.all_gather((features, labels))
    return (
        torch.cat([part for features, _ in parts for part in features]),
        torch.tensor([label for _, labels in parts for label in labels]),
    )


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


@torch.no_grad()
def training_box_features(cfg: CfgNode, model: GeneralizedRCNN) -> list[tuple[Tensor, Tensor]]:
    """The features of the annotated boxes of the training images, without augmentation.

    Several processes share the images; all of them get the whole result.

    Args:
        cfg: read for DATASETS.TRAIN, INPUT and DATALOADER.NUM_WORKERS.
        model: its mode is as before afterwards.

    Returns:
        For each stage of the box head (N, C) features and (N,) labels, on the CPU.

    Raises:
        ValueError: DATASETS.TRAIN is empty, or has another number of classes than the model.
        OSError: an image cannot be read.
    """
    loader = one_pass(cfg, _BoxMapper(build_mapper(cfg, cfg.DATASETS.TRAIN[0], False)))
    heads = model.roi_heads.box_head
    heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
    was_training = model.training
    model.eval()
    features: list[list[Tensor]] = [[] for _ in heads]
    labels = []
    for [(inputs, boxes, classes)] in loader:
        maps = model.backbone(model.preprocess_image([inputs]).tensor)
        maps = [maps[name] for name in model.roi_heads.box_in_features]
        pooled = model.roi_heads.box_pooler(maps, [Boxes(boxes.to(model.device))])
        for of_stage, head in zip(features, heads, strict=True):
            of_stage.append(head(pooled).flatten(1).cpu())
        labels.append(classes)
    model.train(was_training)
    # Lists: a process may have no image.
    parts = comm.all_gather((features, labels))
    every = torch.cat([part for _, of_process in parts for part in of_process])
    return [
        (torch.cat([part for of_process, _ in parts for part in of_process[stage]]), every)
        for stage in range(len(heads))
    ]
