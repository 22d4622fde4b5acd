# SPDX-License-Identifier: Apache-2.0
"""Matching detections with the ground truth of one image, as lvis-api does.

Shapes: D detections and G annotations of one image, or of one category in it; A = 4 ranges of
areas (all, small, medium, large); T = 10 IoU thresholds (0.5 to 0.95); B = 5 bytes, the A * T
bits of a detection, bit a * T + t in little order.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from longtail.evaluation.lvis.annotations import GroundTruth
from longtail.evaluation.lvis.matches import NUM_BYTES, pack_bits
from longtail.evaluation.lvis.metrics import AREA_RANGES, IOU_THRESHOLDS, outside_area_ranges


def greedy_match(ious: np.ndarray, gt_ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection of one category its annotation, for all areas and thresholds at once.

    Detections choose one after the other among the annotations that are still free and reach the
    threshold: first among those that count, then among the ignored ones; the largest IoU wins, of
    equal ones the last.

    Args:
        ious: (D, G) of the detections by falling score, annotations in the order of the file.
        gt_ignored: (A, G) bool.

    Returns:
        (A, T, D) bool: has an annotation; (A, T, D) bool: has one that is ignored.
    """
    num_dt, num_gt = ious.shape
    cells = (len(gt_ignored), len(IOU_THRESHOLDS))
    matched = np.zeros((*cells, num_dt), bool)
    to_ignored = np.zeros_like(matched)
    free = np.ones((*cells, num_gt), bool)
    bonus = np.where(gt_ignored, 0, num_gt)[:, None, :]
    # Most detections reach no annotation: only the others are looked at one by one.
    candidates = np.flatnonzero(ious.max(axis=1) >= IOU_THRESHOLDS[0])
    ious = ious[candidates]
    reached = ious[:, None, :] >= IOU_THRESHOLDS[:, None]
    # Places in the order of the IoUs: exact, where a sum of IoU and bonus would round.
    rank = ious.argsort(axis=1, kind="stable").argsort(axis=1)
    for n, d in enumerate(candidates):
        value = np.where(free & reached[n], rank[n] + bonus, -1)
        area, threshold = (value.max(axis=2) >= 0).nonzero()
        chosen = value.argmax(axis=2)[area, threshold]
        free[area, threshold, chosen] = False
        matched[area, threshold, d] = True
        to_ignored[area, threshold, d] = gt_ignored[area, chosen]
    return matched, to_ignored


def match_image(
    truth: GroundTruth,
    truth_shapes: np.ndarray | list[dict[str, Any]],
    category: np.ndarray,
    shapes: np.ndarray | list[dict[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
    """Tell right from wrong detections of one image, for one kind of shape.

    A detection without match is neither where its area is outside the range, or where its
    category is not exhaustively annotated in the image.

    Args:
        truth: the image's annotations.
        truth_shapes: their (G, 4) boxes or G compressed RLEs.
        category: (D,) category indices by falling score, all of them countable.
        shapes: the (D, 4) boxes (x, y, width, height) or D compressed RLEs.

    Returns:
        (D, B) uint8 bits of the true and (D, B) uint8 bits of the false positives. Both are 0
        for a detection without area.
    """
    if not len(category):
        return np.zeros((0, NUM_BYTES), np.uint8), np.zeros((0, NUM_BYTES), np.uint8)
    if isinstance(shapes, np.ndarray):
        shapes = shapes.astype(np.float64)
        area = shapes[:, 2] * shapes[:, 3]
    else:
        area = _mask_areas(shapes)
    num_thresholds = len(IOU_THRESHOLDS)
    gt_ignored = truth.ignored | outside_area_ranges(truth.area)
    excused = outside_area_ranges(area) | np.isin(category, truth.not_exhaustive)
    matched = np.zeros((len(AREA_RANGES), num_thresholds, len(category)), bool)
    to_ignored = np.zeros_like(matched)
    for index in np.intersect1d(category, truth.category):
        dts = np.flatnonzero(category == index)
        gts = np.flatnonzero(truth.category == index)
        ious = mask_util.iou(_take(shapes, dts), _take(truth_shapes, gts), [0] * len(gts))
        matched[:, :, dts], to_ignored[:, :, dts] = greedy_match(ious, gt_ignored[:, gts])
    true_positive = matched & ~to_ignored
    false_positive = ~matched & ~excused[:, None, :] & (area > 0)
    return pack_bits(true_positive), pack_bits(false_positive)


def _mask_areas(rles: list[dict[str, Any]]) -> np.ndarray:
    # pycocotools puts the number of masks into a byte, which numpy 2 refuses from 256 on.
    starts = range(0, len(rles), 255)
    areas = [mask_util.area(rles[start : start + 255]) for start in starts]
    return np.concatenate(areas).astype(np.float64)


def _take(
    shapes: np.ndarray | list[dict[str, Any]], indices: np.ndarray
) -> np.ndarray | list[dict[str, Any]]:
    if isinstance(shapes, np.ndarray):
        return shapes[indices]
    return [shapes[i] for i in indices]
