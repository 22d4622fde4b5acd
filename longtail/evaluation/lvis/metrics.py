# SPDX-License-Identifier: Apache-2.0
"""LVIS's average precision as pure functions on arrays.

Shapes: C curves, D detections, K categories; A = 4 ranges of areas (all, small, medium, large),
T = 10 IoU thresholds (0.5 to 0.95), R = 101 recalls.

Precisions lie in [0, 1] and are NaN where a category has no annotation to be found.
"""

from collections.abc import Mapping

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_NAMES = ("all", "small", "medium", "large")
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
RECALLS = np.linspace(0, 1, 101)
_EPSILON = np.spacing(1)


def outside_area_ranges(area: np.ndarray) -> np.ndarray:
    """Tell which areas lie outside each range; the two ends of a range belong to it.

    Args:
        area: (D,) in square pixels.

    Returns:
        (A, D) bool.
    """
    low, high = AREA_RANGES[:, :1], AREA_RANGES[:, 1:]
    return (area < low) | (area > high)


def precision_at_recalls(
    true_positive: np.ndarray, false_positive: np.ndarray, num_gt: np.ndarray
) -> np.ndarray:
    """Compute precision-recall curves that only fall.

    The precision at a recall is the best one at this recall or a higher one.

    Args:
        true_positive: (C, D) bool, detections by falling score.
        false_positive: (C, D) bool. A detection may be neither.
        num_gt: (C,) annotations to be found.

    Returns:
        (C, R); 0 at recalls that are not reached, NaN where there is nothing to be found.
    """
    bounds = np.arange(len(num_gt) + 1) * true_positive.shape[1]
    needed = needed_for_recalls(num_gt)
    return joined_precision_at_recalls(
        true_positive.ravel(), false_positive.ravel(), bounds, needed
    )


def needed_for_recalls(num_gt: np.ndarray) -> np.ndarray:
    """Count the true positives that each recall takes.

    Args:
        num_gt: (C,) annotations to be found.

    Returns:
        (C, R) int32, rising from 1; 0 where there is nothing to be found.
    """
    totals, of_curve = np.unique(num_gt, return_inverse=True)
    needed = [
        np.searchsorted(np.arange(1, total + 1) / max(total, 1), RECALLS, side="left") + (total > 0)
        for total in totals.tolist()
    ]
    return np.array(needed, np.int32).reshape(-1, len(RECALLS))[of_curve]


def joined_precision_at_recalls(
    true_positive: np.ndarray, false_positive: np.ndarray, bounds: np.ndarray, needed: np.ndarray
) -> np.ndarray:
    """Compute :func:`precision_at_recalls` of curves that lie one behind the other.

    Args:
        true_positive: (D,) flags, detections by curve, then falling score.
        false_positive: (D,) flags. A detection may be neither.
        bounds: (C + 1,) where the curves begin and end.
        needed: (C, R) of :func:`needed_for_recalls`.

    Returns:
        (C, R) as there.
    """
    # Precision only rises, and recall only moves, at true positives: no other point matters.
    places = np.flatnonzero(true_positive)
    starts = np.searchsorted(places, bounds)
    number = np.diff(starts)
    total_wrong = np.zeros(len(false_positive) + 1, np.int32)
    np.cumsum(false_positive, out=total_wrong[1:])
    wrong = total_wrong[places + 1] - total_wrong[bounds[:-1]].repeat(number)
    right = np.arange(1.0, len(places) + 1) - starts[:-1].repeat(number)
    precision = right / (wrong + right + _EPSILON)
    curves = np.zeros(needed.shape)
    # Also where there is nothing to be found, so that every curve has its part of the sequence.
    place = np.maximum(needed, 1) - 1
    reached = place < number[:, None]
    if len(places):
        # The best from each recall's true positive to the next recall's, or to the curve's end.
        first = (starts[:-1, None] + place)[reached]
        curves[reached] = np.maximum.reduceat(precision, first)
        curves = np.maximum.accumulate(curves[:, ::-1], axis=1)[:, ::-1]
    curves[needed[:, 0] == 0] = np.nan
    return curves


def summarize(precision: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Average the curves to LVIS's nine metrics.

    Args:
        precision: (T, R, K, A).
        groups: category indices by ``"r"``, ``"c"``, ``"f"``.

    Returns:
        ``AP, AP50, AP75, APs, APm, APl, APr, APc, APf`` in [0, 1]; NaN where no category has an
        annotation to be found.
    """
    every = precision[..., 0]
    summary = {
        "AP": mean(every),
        "AP50": mean(every[IOU_THRESHOLDS == 0.5]),
        "AP75": mean(every[IOU_THRESHOLDS == 0.75]),
    }
    for area, name in enumerate(AREA_NAMES[1:], start=1):
        summary[f"AP{name[0]}"] = mean(precision[..., area])
    summary.update({f"AP{name}": mean(every[..., group]) for name, group in groups.items()})
    return summary


def mean(values: np.ndarray) -> float:
    """Average what is not NaN; NaN where there is nothing else."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def in_percent(metrics: Mapping[str, float], ending: str = "") -> dict[str, float]:
    """Multiply metrics by 100 and append ``ending`` (such as ``"_fixed"``) to their names."""
    return {f"{name}{ending}": 100 * value for name, value in metrics.items()}
