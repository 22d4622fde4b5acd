# SPDX-License-Identifier: Apache-2.0
"""Metrics of decisions, where calibration of the scores between categories is felt.

AP ranks the detections of one category among each other, and 300 places an image hardly ever bind:
it does not see how scores of different categories compare. A user who looks at the best few
detections of an image, sets one threshold for all categories, or asks what a found object is, does.
All are of boxes, means over the categories that have ground truth, and of ``r``, ``c`` and ``f``:

- ``AP@1``, ``AP@10``: AP with so many detections an image, over all categories together.
- ``F1``: 2 TP / (TP + FP + G) of a category's detections with a score of at least ``threshold``, at
  IoU 0.5, with G annotations to be found (LVIS's matching, the limit an image, and detections that
  are neither right nor wrong left out). ``threshold`` is one number for all categories: the score
  of a detection at which the mean F1 is highest, of several the highest score. It is chosen on the
  evaluated images, so that ``F1`` is what the best threshold would give. In percent as well.
- ``recall``: TP / G at this threshold.
- ``nearest acc``: of the annotations that some detection of any category overlaps with an IoU of
  0.5 or more, the part for which the one with the largest IoU is of the right category; of equal
  ones the surest decides. Detectors suppress overlapping boxes within each category only, so that
  this may be one with a tiny score.
- ``surest acc``: likewise, for the one with the highest score among those that overlap so.

Shapes: N images, D detections and G annotations of one image or of all, K categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util

from longtail.evaluation.lvis.annotations import GroundTruth, LVISAnnotations
from longtail.evaluation.lvis.detections import Detections, is_matched
from longtail.evaluation.lvis.matches import Matches, join_matches, sort_matches
from longtail.evaluation.lvis.metrics import IOU_THRESHOLDS, mean
from longtail.evaluation.lvis.precision import category_precision, count_ground_truth

LIMITS = (1, 10)
TASK = "bbox"
# What is true of an annotation's detection.
NONE = -1
WRONG = 0
RIGHT = 1


@dataclass(frozen=True)
class ImageDecisions:
    """What the metrics of decisions need of one image.

    Attributes:
        best: those of its best ``max(LIMITS)`` detections that are matched.
        place: (D,) their places in the image by falling score, from 0.
        category: (G,) category indices of the annotations that are not ignored.
        nearest: (G,) int8, whether the detection with the largest IoU is of this category.
        surest: (G,) int8, whether the one with the highest score is; both ``NONE`` where no
            detection reaches an IoU of 0.5.
    """

    best: Matches
    place: np.ndarray
    category: np.ndarray
    nearest: np.ndarray
    surest: np.ndarray


def image_decisions(
    truth: GroundTruth, detections: Detections, matches: Matches, unlimited: bool
) -> ImageDecisions:
    """Take what is needed from the detections of one image.

    Args:
        truth: its annotations.
        detections: all of them.
        matches: of :func:`~longtail.evaluation.lvis.detections.match_detections`.
        unlimited: as there.
    """
    places = np.flatnonzero(unlimited | is_matched(detections, unlimited))
    few = (places < max(LIMITS)) & detections.in_limit[places]
    wanted = ~truth.ignored
    category = truth.category[wanted]
    nearest, surest = judge_classes(
        category,
        truth.boxes[wanted],
        detections.category[detections.in_limit],
        detections.boxes[detections.in_limit].astype(np.float64),
    )
    return ImageDecisions(matches[few], places[few], category, nearest, surest)


def judge_classes(
    category: np.ndarray, boxes: np.ndarray, found: np.ndarray, found_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tell whether objects that were found were taken for what they are.

    Args:
        category: (G,) of the annotations.
        boxes: (G, 4) as x, y, width, height.
        found: (D,) categories of the detections, by falling score.
        found_boxes: (D, 4) float64.

    Returns:
        (G,) int8 of the nearest and (G,) int8 of the surest detection.
    """
    nearest = np.full(len(category), NONE, np.int8)
    surest = nearest.copy()
    if len(category) and len(found):
        ious = mask_util.iou(found_boxes, boxes, [0] * len(boxes))
        reached = ious >= IOU_THRESHOLDS[0]
        known = reached.any(axis=0)
        for judged, chosen in ((nearest, ious.argmax(axis=0)), (surest, reached.argmax(axis=0))):
            judged[known] = np.where(found[chosen] == category, RIGHT, WRONG)[known]
    return nearest, surest


def decision_metrics(
    matches: Matches, images: Sequence[ImageDecisions], annotations: LVISAnnotations
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compute the metrics at the head of this module.

    Args:
        matches: all matched detections.
        images: of the images that were processed.
        annotations: of the whole set.

    Returns:
        Metrics in percent: each under its name and with the ending `` r``, `` c``, `` f``, and
        ``threshold``; and by name the (K,) percents of the categories. NaN stands for none.
    """
    num_gt = count_ground_truth(annotations.images, len(annotations.categories))
    per_class = {f"AP@{limit}": _average_precision(images, limit, num_gt) for limit in LIMITS}
    threshold, f1, recall = _at_one_threshold(matches, num_gt[:, 0])
    per_class |= {"F1": f1, "recall": recall}
    for name in ("nearest", "surest"):
        per_class[f"{name} acc"] = _accuracy(images, name, len(num_gt))
    per_class = {name: 100 * values for name, values in per_class.items()}
    metrics = {}
    for name, values in per_class.items():
        metrics[name] = mean(values)
        for group, members in annotations.frequency_groups().items():
            metrics[f"{name} {group}"] = mean(values[members])
    return {**metrics, "threshold": 100 * threshold}, per_class


def best_threshold(
    category: np.ndarray,
    score: np.ndarray,
    right: np.ndarray,
    wrong: np.ndarray,
    num_gt: np.ndarray,
) -> float:
    """Choose the one score at which the mean F1 of the categories is highest.

    Args:
        category: (D,) indices of categories that have ground truth.
        score: (D,).
        right: (D,) bool.
        wrong: (D,) bool; a detection may be neither.
        num_gt: (K,) annotations to be found.

    Returns:
        The score of a detection, of equally good ones the highest; NaN without detections.
    """
    if not len(score):
        return float("nan")
    order = np.lexsort((-score, category))
    gains = np.empty(len(score))
    bounds = np.searchsorted(category[order], np.arange(len(num_gt) + 1))
    for k in range(len(num_gt)):
        rows = order[bounds[k] : bounds[k + 1]]
        f1 = f1_score(np.cumsum(right[rows]), np.cumsum(wrong[rows]), num_gt[k])
        gains[rows] = np.diff(f1, prepend=0)
    falling = np.argsort(-score, kind="stable")
    total = np.cumsum(gains[falling])
    # A threshold takes all detections of a score or none.
    last = np.flatnonzero(np.diff(score[falling], append=-np.inf))
    # Sums that differ by rounding alone are equal.
    best = last[np.flatnonzero(total[last] >= total[last].max() - 1e-9)[0]]
    return score[falling[best]]


def f1_score(right: np.ndarray, wrong: np.ndarray, num_gt: np.ndarray | np.integer) -> np.ndarray:
    """Harmonic mean of precision and recall, 2 TP / (TP + FP + G); 0 / 0 is NaN."""
    with np.errstate(invalid="ignore"):
        return 2 * right / (right + wrong + num_gt)


def _average_precision(
    images: Sequence[ImageDecisions], limit: int, num_gt: np.ndarray
) -> np.ndarray:
    """(K,) AP of the best ``limit`` detections of each image.

    Detections choose annotations by falling score: how the first ones were matched does not depend
    on those behind the limit.
    """
    kept = [image.best[image.place < limit] for image in images]
    matches = sort_matches(join_matches(kept, (TASK,)))
    precision = category_precision(matches, TASK, num_gt, np.ones(len(matches), bool))
    return precision[..., 0].mean(axis=(0, 1))


def _at_one_threshold(matches: Matches, num_gt: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The threshold, and the (K,) F1 and recall there."""
    chosen = matches[matches.in_image_limit & (num_gt[matches.category] > 0)]
    # The first bit: all areas, the lowest IoU.
    right, wrong = (
        (bits[TASK][:, 0] & 1).astype(bool)
        for bits in (chosen.true_positive, chosen.false_positive)
    )
    threshold = best_threshold(chosen.category, chosen.score, right, wrong, num_gt)
    above = chosen.score >= threshold
    found, false = (
        np.bincount(chosen.category[above & flags], minlength=len(num_gt))
        for flags in (right, wrong)
    )
    f1 = np.where(num_gt > 0, f1_score(found, false, num_gt), np.nan)
    return float(threshold), f1, np.where(num_gt > 0, found / np.maximum(num_gt, 1), np.nan)


def _accuracy(images: Sequence[ImageDecisions], name: str, num_categories: int) -> np.ndarray:
    """(K,) part of the annotations with a detection for which it is the right one."""
    category = np.concatenate([np.empty(0, np.int64), *(image.category for image in images)])
    judged = np.concatenate([np.empty(0, np.int8), *(getattr(image, name) for image in images)])
    right, wrong = (
        np.bincount(category[judged == kind].astype(np.int64), minlength=num_categories)
        for kind in (RIGHT, WRONG)
    )
    with np.errstate(invalid="ignore"):
        return right / (right + wrong)
