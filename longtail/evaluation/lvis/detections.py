# SPDX-License-Identifier: Apache-2.0
"""The detections of one image: selected, with their masks, matched, and written.

Shapes: D detections of one image, (H, W) its size.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Instances, ROIMasks

from longtail.evaluation.lvis.annotations import LVISAnnotations
from longtail.evaluation.lvis.matches import NUM_BYTES, Matches
from longtail.evaluation.lvis.matching import match_image
from longtail.evaluation.roi_masks import encode_bitmasks, encode_roi_masks


class EncodedMasks:
    """The masks of D detections as compressed RLEs, in the place of ``pred_masks``."""

    def __init__(self, rles: Sequence[dict[str, Any]]) -> None:
        """Keep the masks.

        Args:
            rles: D times ``{"size": [H, W], "counts": text or bytes}``.
        """
        self.rles = [
            {**rle, "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
            for rle in rles
            for counts in (rle["counts"],)
        ]

    def __len__(self) -> int:
        """D."""
        return len(self.rles)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Give (H, W) uint8 pixels, mask by mask, for detectron2's evaluators."""
        return map(mask_util.decode, self.rles)


@dataclass(frozen=True)
class Detections:
    """The detections of one image by falling score; equal scores keep the model's order.

    Attributes:
        image: image index.
        category: (D,) category indices.
        score: (D,) float.
        boxes: (D, 4) as x, y, width, height.
        order: (D,) where the model has them.
        in_limit: (D,) bool, the best of the image up to the limit.
        countable: (D,) bool, the federated rules can count them.
    """

    image: int
    category: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    order: np.ndarray
    in_limit: np.ndarray
    countable: np.ndarray


def select_detections(
    annotations: LVISAnnotations,
    image: int,
    category: np.ndarray,
    score: np.ndarray,
    boxes: np.ndarray,
    limit: int,
) -> Detections:
    """Sort the detections of one image and tell which count.

    The limit comes first: also detections that count for nothing take up places.

    Args:
        annotations: the data set's.
        image: image index.
        category: (D,) category indices.
        score: (D,) float.
        boxes: (D, 4) as x, y, width, height.
        limit: detections an image in the standard metric.
    """
    order = np.argsort(-score, kind="stable")
    category = category[order]
    return Detections(
        image=image,
        category=category,
        score=score[order],
        boxes=boxes[order],
        order=order,
        in_limit=np.arange(len(order)) < limit,
        countable=annotations.images[image].countable(category),
    )


def match_detections(
    annotations: LVISAnnotations,
    detections: Detections,
    masks: Mapping[int, dict[str, Any]] | None,
    unlimited: bool,
) -> Matches:
    """Match the detections of one image with its annotations.

    Args:
        annotations: the data set's.
        detections: of one image.
        masks: compressed RLEs by place in ``detections``, of all that are matched (see
            :func:`is_matched`); None to evaluate boxes alone.
        unlimited: also keep the detections beyond the image's limit, and those that count for
            nothing: both have a place among the best of a category.
    """
    truth = annotations.images[detections.image]
    matched = is_matched(detections, unlimited)
    places = np.flatnonzero(matched)
    category = detections.category[places]
    bits = {"bbox": match_image(truth, truth.boxes, category, detections.boxes[places])}
    if masks is not None:
        # Polygons are only converted where an annotation is compared.
        compared = len(np.intersect1d(category, truth.category)) > 0
        truth_masks = annotations.masks(detections.image) if compared else []
        bits["segm"] = match_image(truth, truth_masks, category, [masks[i] for i in places])
    kept = np.ones_like(matched) if unlimited else matched
    rows = np.flatnonzero(matched[kept])

    def spread(values: np.ndarray) -> np.ndarray:
        spaced = np.zeros((int(kept.sum()), NUM_BYTES), np.uint8)
        spaced[rows] = values
        return spaced

    return Matches(
        image=np.full(int(kept.sum()), detections.image, np.int32),
        category=detections.category[kept].astype(np.int32),
        score=detections.score[kept],
        in_image_limit=(detections.in_limit & detections.countable)[kept],
        true_positive={task: spread(both[0]) for task, both in bits.items()},
        false_positive={task: spread(both[1]) for task, both in bits.items()},
    )


def is_matched(detections: Detections, unlimited: bool) -> np.ndarray:
    """Tell which detections :func:`match_detections` compares, and needs the masks of.

    Args:
        detections: of one image.
        unlimited: as for :func:`match_detections`.

    Returns:
        (D,) bool.
    """
    return detections.countable & (detections.in_limit | unlimited)


def encode_masks(instances: Instances, indices: np.ndarray) -> list[dict[str, Any]]:
    """Encode the masks of some detections as compressed RLEs.

    Args:
        instances: with ``pred_masks`` (D, H, W), or ``ROIMasks``, or :class:`EncodedMasks`.
        indices: which of the D.

    Returns:
        ``{"size": [H, W], "counts": bytes}`` for each of ``indices``.
    """
    if isinstance(instances.pred_masks, EncodedMasks):
        return [instances.pred_masks.rles[index] for index in indices]
    chosen = torch.as_tensor(indices, device=instances.pred_masks.device)
    if isinstance(instances.pred_masks, ROIMasks):
        masks = instances.pred_masks.tensor[chosen]
        return encode_roi_masks(masks, instances.pred_boxes.tensor[chosen], *instances.image_size)
    return encode_bitmasks(instances.pred_masks, chosen)


def results_line(
    annotations: LVISAnnotations,
    detections: Detections,
    masks: Mapping[int, dict[str, Any]] | None,
    chosen: np.ndarray,
) -> bytes:
    """Write detections in LVIS's results format, without the brackets of the list.

    Args:
        annotations: the data set's.
        detections: of one image.
        masks: compressed RLEs by place of all that are chosen, or None.
        chosen: (D,) bool.
    """
    results = []
    for place in np.flatnonzero(chosen).tolist():
        result = {
            "image_id": int(annotations.image_ids[detections.image]),
            "category_id": int(annotations.category_ids[detections.category[place]]),
            "bbox": detections.boxes[place].tolist(),
            "score": float(detections.score[place]),
        }
        if masks is not None:
            rle = masks[place]
            counts = rle["counts"].decode("ascii")
            result["segmentation"] = {"size": list(rle["size"]), "counts": counts}
        results.append(result)
    return json.dumps(results)[1:-1].encode("ascii")
