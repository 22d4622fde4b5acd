# SPDX-License-Identifier: Apache-2.0
"""A trained detector whose frozen part is computed once: calibrations are then fitted in seconds.

Shape alphabet:
    P: proposals of an image
    R: RoIs sampled for the training of the box head
    C: channels of a RoI's feature
    K: foreground classes; the last of K + 1 logits is the background's
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from tqdm import tqdm

from longtail.data.datasets.classes import class_names
from longtail.engine import Trainer
from longtail.engine.training.data_sets import build_mapper
from longtail.engine.training.stages import load_second_stage
from longtail.evaluation import LVISEvaluator

# Of an image: AP at 300 and AP_fixed, which has no limit an image, from the same detections.
MOST_DETECTIONS = 1000


@dataclass(frozen=True)
class FrozenImage:
    """What a detector computes of an image before its calibration.

    Attributes:
        image_id: as in the annotations.
        size, original_size: (H, W) of the model's input, and of the file.
        features: (P, C) float16 input of the classifier.
        logits: (P, K + 1) its output.
        boxes: (P, 4 K) or (P, 4) refined boxes.
    """

    image_id: int
    size: tuple[int, int]
    original_size: tuple[int, int]
    features: Tensor
    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class FrozenRoIs:
    """The RoIs that one image gives to the training of the classifier.

    Attributes:
        features: (R, C) float16.
        logits: (R, K + 1).
        classes: (R,) ground truth, K for background.
    """

    features: Tensor
    logits: Tensor
    classes: Tensor


class FrozenDetector:
    """A second stage's model before any training: the first stage's detector."""

    def __init__(self, cfg: CfgNode, cache: Path) -> None:
        """Load the first stage.

        Args:
            cfg: of the second stage; its weights are the first stage's.
            cache: folder for what is computed.
        """
        self.cfg, self.cache = cfg, cache
        self.model: nn.Module = Trainer.build_model(cfg)
        load_second_stage(self.model, cfg.MODEL.WEIGHTS, class_names(cfg.DATASETS.TRAIN[0]))
        self.model.eval()
        self.predictor = self.model.roi_heads.box_predictor

    def images(self, dataset: str) -> list[FrozenImage]:
        """The images of a data set, as the evaluation sees them."""
        mapper = build_mapper(self.cfg, dataset, False)
        return self._kept(f"{dataset}_images", DatasetCatalog.get(dataset), mapper, self._image)

    def rois(self, dataset: str, epoch: int | None) -> list[FrozenRoIs]:
        """The RoIs of a data set.

        Args:
            dataset: name.
            epoch: of random augmentation and sampling; None for the images as they are.
        """
        mapper = build_mapper(self._unaugmented() if epoch is None else self.cfg, dataset, True)
        name = f"{dataset}_rois_{'plain' if epoch is None else epoch}"
        records = DatasetCatalog.get(dataset)
        seeds = range((epoch or 0) * len(records), ((epoch or 0) + 1) * len(records))
        return self._kept(name, records, mapper, self._rois, seeds)

    def _unaugmented(self) -> CfgNode:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TRAIN = (cfg.INPUT.MIN_SIZE_TEST,)
        cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST
        cfg.INPUT.RANDOM_FLIP = "none"
        return cfg

    @torch.no_grad()
    def _kept(
        self,
        name: str,
        records: Sequence[dict],
        mapper: Callable,
        compute: Callable,
        seeds: Iterable[int] | None = None,
    ) -> list:
        """Compute something for all records, or read what was computed."""
        path = self.cache / f"{name}.pt"
        kind = FrozenImage if compute == self._image else FrozenRoIs
        if path.exists():
            return [kind(**item) for item in torch.load(path, weights_only=True)]
        found = []
        for seed, record in zip(
            seeds or range(len(records)), tqdm(records, name, mininterval=10), strict=True
        ):
            seed_all_rng(seed)
            with EventStorage():
                found.append(compute(mapper(record)))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([vars(item) for item in found], path)
        return found

    def _image(self, item: dict) -> FrozenImage:
        model, heads = self.model, self.model.roi_heads
        images = model.preprocess_image([item])
        maps = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, maps, None)
        x = heads._box_features(maps, [proposals[0].proposal_boxes], heads.box_head)
        logits = self.predictor.cls_score(x)
        boxes = self.predictor.predict_boxes((None, self.predictor.bbox_pred(x)), proposals)[0]
        return FrozenImage(
            image_id=item["image_id"],
            size=tuple(images.image_sizes[0]),
            original_size=(item["height"], item["width"]),
            features=x.half(),
            logits=logits,
            boxes=boxes,
        )

    def _rois(self, item: dict) -> FrozenRoIs:
        ((features, classes),) = self.model.sample_rois([item])
        return FrozenRoIs(features.half(), self.predictor.cls_score(features), classes)


def detect(
    cfg: CfgNode, image: FrozenImage, calibrate: Callable[[Tensor, Tensor], Tensor]
) -> Instances:
    """The detections of an image after a calibration, at its original size.

    Args:
        cfg: for the thresholds of the inference.
        image: what is frozen.
        calibrate: from (P, K) foreground logits and (P, C) features to (P, K).
    """
    logits = image.logits.clone()
    logits[:, :-1] = calibrate(logits[:, :-1], image.features.float())
    detections, _ = fast_rcnn_inference_single_image(
        image.boxes,
        logits.softmax(dim=1),
        image.size,
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        MOST_DETECTIONS,
    )
    return detector_postprocess(detections, *image.original_size)


def evaluate(
    cfg: CfgNode,
    dataset: str,
    images: Sequence[FrozenImage],
    calibrations: Mapping[int, Callable[[Tensor, Tensor], Tensor]],
) -> dict[str, float]:
    """The metrics of boxes after a calibration, in percent.

    Args:
        cfg: for the thresholds of the inference.
        dataset: name.
        images: all of its images.
        calibrations: by image id, from (P, K) foreground logits and (P, C) features to (P, K).
    """
    evaluator = LVISEvaluator(
        dataset,
        modes=("standard", "fixed", "pool"),
        tasks=("bbox",),
        training_sets=cfg.DATASETS.TRAIN,
        decisions=True,
    )
    for image in images:
        output = detect(cfg, image, calibrations[image.image_id])
        evaluator.process([{"image_id": image.image_id}], [{"instances": output}])
    return evaluator.evaluate()["bbox"]
