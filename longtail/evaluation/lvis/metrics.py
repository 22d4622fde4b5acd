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
# Flags of curves whose sums are held at a time, 8 bytes each.
FLAGS_AT_ONCE = 1 << 20


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
    curves = np.full((len(num_gt), len(RECALLS)), np.nan)
    for total in np.unique(num_gt[num_gt > 0]).tolist():
        rows = np.flatnonzero(num_gt == total)
        # Right detections after which a recall is reached.
        needed = np.searchsorted(np.arange(1, total + 1) / total, RECALLS, side="left")
        step = max(1, FLAGS_AT_ONCE // max(1, true_positive.shape[1]))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            envelopes = _envelopes(true_positive[some], false_positive[some])
            reached = needed < envelopes.shape[1]
            curves[some] = 0
            curves[np.ix_(some, reached)] = envelopes[:, needed[reached]]
    return curves


def _envelopes(true_positive: np.ndarray, false_positive: np.ndarray) -> np.ndarray:
    """(C, most true positives) best precision at the n-th true positive or a later one, 0 if none.

    Precision only rises, and recall only moves, at true positives: no other point matters.
    """
    curve, place = np.nonzero(true_positive)
    number = np.bincount(curve, minlength=len(true_positive))
    right = np.arange(1.0, len(curve) + 1) - np.repeat(np.cumsum(number) - number, number)
    wrong = np.cumsum(false_positive, axis=1, dtype=np.int64)[curve, place]
    precision = np.zeros((len(true_positive), number.max(initial=0)))
    precision[curve, right.astype(np.int64) - 1] = right / (wrong + right + _EPSILON)
    return np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]


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
