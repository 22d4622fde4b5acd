# SPDX-License-Identifier: Apache-2.0
"""From matched detections to average precision: per category, fixed and pooled.

Shapes: D detections of the whole set, K categories; A, T and R as in
:mod:`longtail.evaluation.lvis.metrics`, Matches as in :mod:`longtail.evaluation.lvis.matches`.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from longtail.evaluation.lvis.annotations import GroundTruth, LVISAnnotations
from longtail.evaluation.lvis.matches import (
    Matches,
    in_category_limit,
    sort_matches,
)
from longtail.evaluation.lvis.metrics import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    RECALLS,
    in_percent,
    joined_precision_at_recalls,
    mean,
    needed_for_recalls,
    outside_area_ranges,
    precision_at_recalls,
    summarize,
)

MODES = ("standard", "fixed", "pool")
ENDINGS = {"standard": "", "fixed": "_fixed"}
# Detections whose curves are computed at a time, some 20 bytes each.
DETECTIONS_AT_ONCE = 1 << 16


def compute_metrics(
    matches: Matches, annotations: LVISAnnotations, tasks: Sequence[str], modes: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[tuple[str, str], np.ndarray]]:
    """Compute all metrics of the matched detections.

    Args:
        matches: of the whole set, in any order of the images.
        annotations: what they were matched with.
        tasks: ``"bbox"``, ``"segm"``.
        modes: of :data:`MODES`.

    Returns:
        By task the metrics in percent (``"AP"``, ..., ``"AP_fixed"``, ..., ``"AP_pool"``); by
        task and mode (``"standard"``, ``"fixed"``) the (T, R, K, A) precision.
    """
    matches = sort_matches(matches)
    groups = annotations.frequency_groups()
    num_gt = count_ground_truth(annotations.images, len(annotations.categories))
    chosen = {
        "standard": matches.in_image_limit,
        "fixed": in_category_limit(matches),
    }
    metrics: dict[str, dict[str, float]] = {task: {} for task in tasks}
    curves = {}
    for task in tasks:
        for mode in (mode for mode in ENDINGS if mode in modes):
            curves[task, mode] = category_precision(matches, task, num_gt, chosen[mode])
            summary = summarize(curves[task, mode], groups)
            metrics[task] |= in_percent(summary, ENDINGS[mode])
        if "pool" in modes:
            pools = {"": np.arange(len(num_gt)), **groups}
            pooled = {
                f"AP{name}": mean(pooled_precision(matches, task, num_gt, chosen["fixed"], pool))
                for name, pool in pools.items()
            }
            metrics[task] |= in_percent(pooled, "_pool")
    return metrics, curves


def count_ground_truth(images: Iterable[GroundTruth], num_categories: int) -> np.ndarray:
    """Count the annotations to be found: not ignored, and in the range of areas.

    Args:
        images: of the whole set.
        num_categories: K.

    Returns:
        (K, A) int64.
    """
    counts = np.zeros((num_categories, len(AREA_RANGES)), np.int64)
    for truth in images:
        wanted = ~(truth.ignored | outside_area_ranges(truth.area))
        for area in range(len(AREA_RANGES)):
            np.add.at(counts[:, area], truth.category[wanted[area]], 1)
    return counts


def category_precision(
    matches: Matches, task: str, num_gt: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Compute the precision-recall curves of every category.

    Args:
        matches: sorted.
        task: ``"bbox"`` or ``"segm"``.
        num_gt: (K, A) annotations to be found.
        chosen: (D,) bool, the detections that count.

    Returns:
        (T, R, K, A) precision.
    """
    num_categories, num_areas = num_gt.shape
    shape = (len(IOU_THRESHOLDS), len(RECALLS), num_categories, num_areas)
    precision = np.full(shape, np.nan)
    known = num_gt.any(axis=1)
    rows = np.flatnonzero(chosen & known[matches.category])
    bounds = np.searchsorted(matches.category[rows], np.arange(num_categories + 1))
    needed = [needed_for_recalls(column) for column in num_gt.T]
    for part in _blocks(bounds, np.flatnonzero(known)):
        some = rows[bounds[part[0]] : bounds[part[-1] + 1]]
        # By bytes, each of which holds 8 flags.
        right, wrong = (
            np.ascontiguousarray(flags[task][some].T)
            for flags in (matches.true_positive, matches.false_positive)
        )
        ends = np.append(bounds[part], bounds[part[-1] + 1]) - bounds[part[0]]
        for cell in range(num_areas * len(IOU_THRESHOLDS)):
            area, threshold = divmod(cell, len(IOU_THRESHOLDS))
            byte, bit = cell // 8, np.uint8(1 << cell % 8)
            precision[threshold, :, part, area] = joined_precision_at_recalls(
                right[byte] & bit, wrong[byte] & bit != 0, ends, needed[area][part]
            )
    return precision


def _blocks(bounds: np.ndarray, categories: np.ndarray) -> Iterator[np.ndarray]:
    """Split categories so that each part has few detections, or one category.

    Args:
        bounds: (K + 1,) where the detections of each category begin and end.
        categories: indices.
    """
    if len(categories):
        number = np.cumsum(np.diff(bounds)[categories]) // DETECTIONS_AT_ONCE
        yield from np.split(categories, np.flatnonzero(np.diff(number)) + 1)


def pooled_precision(
    matches: Matches,
    task: str,
    num_gt: np.ndarray,
    chosen: np.ndarray,
    categories: np.ndarray,
) -> np.ndarray:
    """Compute the precision-recall curves of several categories taken as one, over all areas.

    Args:
        matches: sorted; of equal scores the first image's counts as higher, then the first
            category's.
        task: ``"bbox"`` or ``"segm"``.
        num_gt: (K, A) annotations to be found.
        chosen: (D,) bool, the detections that count.
        categories: indices of those that are pooled.

    Returns:
        (T, R) precision.
    """
    rows = np.flatnonzero(chosen & np.isin(matches.category, categories))
    rows = rows[np.lexsort((matches.image[rows], -matches.score[rows]))]
    total = num_gt[categories, 0].sum()
    curves = []
    for threshold in range(len(IOU_THRESHOLDS)):
        # One bit at a time: all of them would be 40 bytes a detection.
        byte, bit = divmod(threshold, 8)
        curves.append(
            precision_at_recalls(
                (matches.true_positive[task][rows, byte] >> bit & 1)[None].astype(bool),
                (matches.false_positive[task][rows, byte] >> bit & 1)[None].astype(bool),
                np.array([total]),
            )[0]
        )
    return np.array(curves)
