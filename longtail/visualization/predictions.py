# SPDX-License-Identifier: Apache-2.0
"""What pictures are drawn of, besides label maps: the objects and the best classes of an image.

Shapes: N objects, (H, W) image size. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks

from longtail.data.formats.lvis_shapes import segmentation_rle
from longtail.evaluation.classification.predictions import best_classes
from longtail.evaluation.lvis.detections import encode_masks
from longtail.evaluation.metrics import check_finite

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Objects:
    """The objects of one image, those with the best scores first.

    Attributes:
        classes: (N,) integers, 0..K-1.
        boxes: (N, 4) float64 corners x0, y0, x1, y1.
        scores: (N,) float64; None of ground truth.
        masks: N compressed RLEs, or None of boxes alone.
    """

    classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None = None
    masks: Sequence[dict[str, Any]] | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.classes)

    def mask(self, index: int) -> np.ndarray | None:
        """The (H, W) bool mask of one object, if there are masks."""
        return None if self.masks is None else mask_util.decode(self.masks[index]).astype(bool)


@dataclass(frozen=True)
class Ranking:
    """The best classes of an image, the best one first.

    Attributes:
        classes: class indices.
        scores: their probabilities.
    """

    classes: Sequence[int]
    scores: Sequence[float]


def objects_of_results(results: Sequence[Record], min_score: float) -> Objects:
    """The objects of an image's entries in a file of results.

    Args:
        results: ``class`` (0..K-1), ``bbox`` (x, y, width, height), ``score`` and, for all or none,
            ``segmentation``, a compressed RLE.
        min_score: those with lower scores are left out.
    """
    results = [item for item in results if item["score"] >= min_score]
    results.sort(key=lambda item: -item["score"])
    boxes = np.array([item["bbox"] for item in results], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    with_masks = bool(results) and all("segmentation" in item for item in results)
    return Objects(
        np.array([item["class"] for item in results], np.int64),
        boxes,
        np.array([item["score"] for item in results], np.float64),
        [item["segmentation"] for item in results] if with_masks else None,
    )


@torch.no_grad()
def objects_of_output(instances: Instances, min_score: float, image: str) -> Objects:
    """The objects that a detector gives.

    Args:
        instances: with ``pred_boxes``, ``scores``, ``pred_classes`` and perhaps ``pred_masks``, at
            the image's original size or as ``ROIMasks``.
        min_score: those with lower scores are left out.
        image: its name, for the message.

    Raises:
        ValueError: a score or box is not finite.
    """
    check_finite(instances.scores, f"{image}: scores")
    check_finite(instances.pred_boxes.tensor, f"{image}: boxes")
    scores = instances.scores.float().cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= min_score]
    # In the type and by the way of a file of results, so that its pictures are the same.
    boxes = instances.pred_boxes.tensor.float().cpu().numpy()[order]
    boxes[:, 2:] -= boxes[:, :2]
    boxes = boxes.astype(np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        instances.pred_classes.cpu().numpy()[order],
        boxes,
        scores[order].astype(np.float64),
        encode_masks(instances, order) if instances.has("pred_masks") and len(order) else None,
    )


def objects_of_record(record: Record) -> Objects | None:
    """The ground truth of a record in detectron2's format; None of a test set.

    Crowds outline groups, not objects, and are left out.
    """
    if "annotations" not in record:
        return None
    items = [item for item in record["annotations"] if not item.get("iscrowd", 0)]
    boxes = [BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS) for item in items]
    masks = None
    if items and all(item.get("segmentation") for item in items):
        size = record["height"], record["width"]
        masks = [segmentation_rle(item["segmentation"], *size) for item in items]
    classes = np.array([item["category_id"] for item in items], np.int64)
    return Objects(classes, np.array(boxes, np.float64).reshape(-1, 4), None, masks)


def objects_of_mapper(instances: Instances) -> Objects:
    """The objects that a model is trained on, at the size of the mapped image.

    Args:
        instances: with ``gt_boxes``, ``gt_classes`` and perhaps ``gt_masks``.
    """
    boxes: Boxes = instances.gt_boxes
    masks = None
    if instances.has("gt_masks") and len(instances):
        shapes = instances.gt_masks
        if isinstance(shapes, PolygonMasks):
            size = instances.image_size
            masks = [mask_util.merge(mask_util.frPyObjects(p, *size)) for p in shapes.polygons]
        else:
            bits = BitMasks(shapes.tensor).tensor.numpy().astype(np.uint8)
            masks = [mask_util.encode(np.asfortranarray(mask)) for mask in bits]
    return Objects(
        instances.gt_classes.numpy(), boxes.tensor.numpy().astype(np.float64), None, masks
    )


def ranking_of_output(scores: torch.Tensor, image: str) -> Ranking:
    """The best classes of an image.

    Args:
        scores: (K,) probabilities.
        image: its name, for the message.

    Raises:
        ValueError: a score is not finite.
    """
    check_finite(scores, f"{image}: scores")
    (best,) = best_classes(scores[None])
    return Ranking(*best)
