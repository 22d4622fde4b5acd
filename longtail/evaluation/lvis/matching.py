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
from longtail.evaluation.lvis.metrics import IOU_THRESHOLDS, outside_area_ranges


def greedy_match(ious: np.ndarray, gt_ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection its annotation, for all areas and thresholds at once.

    Detections choose one after the other among the annotations that are still free and reach the
    threshold: first among those that count, then among the ignored ones; the largest IoU wins, of
    equal ones the last.

    Args:
        ious: (D, G) of the detections by falling score, annotations in the order of the file; 0
            where the categories differ.
        gt_ignored: (A, G) bool.

    Returns:
        (A, T, D) bool: has an annotation; (A, T, D) bool: has one that is ignored.
    """
    matched = np.zeros((len(gt_ignored), len(IOU_THRESHOLDS), len(ious)), bool)
    to_ignored = np.zeros_like(matched)
    reached = ious >= IOU_THRESHOLDS[0]
    dt, gt = reached.nonzero()
    # A detection with a choice, and what it can choose from, is looked at one by one.
    choices = np.bincount(dt, minlength=len(ious))
    wanted = np.zeros(ious.shape[1], bool)
    wanted[gt[choices[dt] > 1]] = True
    alone = ~wanted[gt]
    dt, gt = dt[alone], gt[alone]
    order = gt.argsort(kind="stable")
    dt, gt = dt[order], gt[order]
    first = _first_to_reach(ious[dt, gt], gt).T
    matched[:, :, dt] = first
    to_ignored[:, :, dt] = first & gt_ignored[:, None, gt]
    gts = np.flatnonzero(wanted)
    if len(gts):
        dts = np.flatnonzero(reached[:, gts].any(axis=1))
        chosen = _choose(ious[np.ix_(dts, gts)], gt_ignored[:, gts])
        matched[:, :, dts], to_ignored[:, :, dts] = chosen
    return matched, to_ignored


def _first_to_reach(ious: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Tell which detections take an annotation that each of them reaches, and no other one.

    Args:
        ious: (D,) by annotation, then falling score.
        gt: (D,) index of the annotation.

    Returns:
        (D, T) bool: the first of an annotation's detections that reaches the threshold.
    """
    reached = ious[:, None] >= IOU_THRESHOLDS
    count = np.cumsum(reached, axis=0, dtype=np.int32)
    starts = np.flatnonzero(np.diff(gt, prepend=-1))
    before = count[starts] - reached[starts]
    return reached & (count - before.repeat(np.diff(starts, append=len(gt)), axis=0) == 1)


def _choose(ious: np.ndarray, gt_ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let detections choose one by one: see :func:`greedy_match`."""
    num_dt, num_gt = ious.shape
    cells = (len(gt_ignored), len(IOU_THRESHOLDS))
    matched = np.zeros((*cells, num_dt), bool)
    to_ignored = np.zeros_like(matched)
    free = np.ones((*cells, num_gt), bool)
    bonus = np.where(gt_ignored, 0, num_gt)[:, None, :]
    reached = ious[:, None, :] >= IOU_THRESHOLDS[:, None]
    # Places in the order of the IoUs: exact, where a sum of IoU and bonus would round.
    rank = ious.argsort(axis=1, kind="stable").argsort(axis=1)
    for d in range(num_dt):
        value = np.where(free & reached[d], rank[d] + bonus, -1)
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
    gt_ignored = truth.ignored | outside_area_ranges(truth.area)
    excused = outside_area_ranges(area) | np.isin(category, truth.not_exhaustive)
    matched, to_ignored = greedy_match(_ious(truth, truth_shapes, category, shapes), gt_ignored)
    true_positive = matched & ~to_ignored
    false_positive = ~matched & ~excused[:, None, :] & (area > 0)
    return pack_bits(true_positive), pack_bits(false_positive)


def _mask_areas(rles: list[dict[str, Any]]) -> np.ndarray:
    # pycocotools puts the number of masks into a byte, which numpy 2 refuses from 256 on.
    starts = range(0, len(rles), 255)
    areas = [mask_util.area(rles[start : start + 255]) for start in starts]
    return np.concatenate(areas).astype(np.float64)


def _ious(
    truth: GroundTruth,
    truth_shapes: np.ndarray | list[dict[str, Any]],
    category: np.ndarray,
    shapes: np.ndarray | list[dict[str, Any]],
) -> np.ndarray:
    """(D, G) overlaps, 0 where the categories differ."""
    same = category[:, None] == truth.category
    if not same.any():
        return np.zeros(same.shape)
    if isinstance(shapes, np.ndarray):
        return np.where(same, mask_util.iou(shapes, truth_shapes, [0] * len(truth_shapes)), 0)
    ious = np.zeros(same.shape)
    for gts in _groups(truth.category):
        dts = np.flatnonzero(same[:, gts[0]])
        if len(dts):
            chosen = [shapes[i] for i in dts], [truth_shapes[i] for i in gts]
            ious[np.ix_(dts, gts)] = mask_util.iou(*chosen, [0] * len(gts))
    return ious


def _groups(values: np.ndarray) -> list[np.ndarray]:
    """Indices of equal values, each rising."""
    order = values.argsort(kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
