# SPDX-License-Identifier: Apache-2.0
"""Per-class gain of one run over another, sorted by frequency, as pure functions.

Shapes: K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from longtail.evaluation.metrics import grouped_mean


def class_gain(baseline: npt.ArrayLike, other: npt.ArrayLike) -> np.ndarray:
    """Difference of a per-class metric: Eq. 4 (IoU) and 5 (Acc) of the Region Rebalance paper.

    Args:
        baseline: (K,) metric before, in percent; NaN for a class without ground truth.
        other: (K,) metric after, of the same test set.

    Returns:
        (K,) float64 ``other - baseline``, in percentage points; NaN where one of them is.

    Raises:
        ValueError: the shapes differ, or are not (K,).
    """
    before, after = (np.asarray(values, dtype=np.float64) for values in (baseline, other))
    if before.ndim != 1 or before.shape != after.shape:
        raise ValueError(
            f"class_gain: expected two metrics of shape (K,), got {before.shape} and {after.shape}"
        )
    return after - before


def frequency_order(counts: npt.ArrayLike) -> np.ndarray:
    """Class indices from the most frequent class to the rarest; equal ones by class index.

    Args:
        counts: (K,) training pixels, images or instances.
    """
    return np.argsort(-np.asarray(counts, dtype=np.float64), kind="stable")


def gain_summary(
    gain: npt.ArrayLike, groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Any]:
    """Sum a per-class gain up.

    Args:
        gain: (K,) of :func:`class_gain`; NaN classes are left out everywhere.
        groups: class indices by group, such as head, body and tail.

    Returns:
        ``classes``, the number of classes with a value; ``rose``, ``fell`` and ``same``, how many
        of them have a gain above, below and of 0; ``mean``, the difference of the class means; and
        ``groups``, the mean by group. Means are NaN where no class has a value.

    Raises:
        ValueError: a group names a class that there is not.
    """
    gain = np.asarray(gain, dtype=np.float64)
    known = gain[~np.isnan(gain)]
    return {
        "classes": len(known),
        "rose": int((known > 0).sum()),
        "fell": int((known < 0).sum()),
        "same": int((known == 0).sum()),
        "mean": float(known.mean()) if len(known) else float("nan"),
        "groups": grouped_mean(gain, groups or {}),
    }


def largest_changes(gain: npt.ArrayLike, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes that gained and lost most.

    Args:
        gain: (K,) of :func:`class_gain`.
        number: how many of each, at most.

    Returns:
        Indices of the classes with the largest gain above 0, largest first, and with the largest
        loss, largest first; equal ones by class index.
    """
    gain = np.asarray(gain, dtype=np.float64)
    # NaN is neither above nor below 0, wherever it is sorted to.
    rising, falling = (np.argsort(values, kind="stable") for values in (-gain, gain))
    return rising[gain[rising] > 0][:number], falling[gain[falling] < 0][:number]
