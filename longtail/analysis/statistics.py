# SPDX-License-Identifier: Apache-2.0
"""Means, deviations and differences over runs, as pure functions of arrays.

Shapes: n runs (seeds) on the first axis, whatever is measured of each on the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """The mean over runs and how far they are apart.

    Attributes:
        mean: over the runs.
        deviation: of a single run, the sample standard deviation (n - 1 in its denominator); NaN
            for one run.
        count: n.
    """

    mean: np.ndarray
    deviation: np.ndarray
    count: int


@dataclass(frozen=True)
class Difference:
    """How much higher the mean over some runs is than that over others.

    Attributes:
        mean: of the first minus that of the others.
        error: its standard error; NaN where a side has one run.
        low, high: the confidence interval by Student's t distribution; NaN where ``error`` is.
        paired: whether it is the mean of n differences.
    """

    mean: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    paired: bool


def spread(values: ArrayLike) -> Spread:
    """Mean and sample standard deviation over runs.

    Args:
        values: (n, ...), n >= 1; NaN where a run has no value, which makes the result NaN.

    Raises:
        ValueError: there is no run.
    """
    array = _runs(values)
    return Spread(array.mean(axis=0), np.sqrt(_variance(array)), len(array))


def difference(
    values: ArrayLike, base: ArrayLike, *, paired: bool, confidence: float = CONFIDENCE
) -> Difference:
    """Difference of the means of two groups of runs.

    Args:
        values: (n, ...).
        base: (m, ...), what they are compared with.
        paired: whether run i of both belongs together, since it continues the other, or has
            everything else in common; then n = m. The differences' own deviation then gives the
            error. Otherwise the groups are independent and may have different deviations (Welch).
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: a group is empty, or two that are paired have different numbers of runs.
    """
    first, second = _runs(values), _runs(base)
    if paired and len(first) != len(second):
        raise ValueError(f"paired runs: {len(first)} and {len(second)}, expected as many of both")
    mean = first.mean(axis=0) - second.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if paired:
            squared = _variance(first - second) / len(first)
            freedom = np.full_like(squared, len(first) - 1)
        else:
            one, other = _variance(first) / len(first), _variance(second) / len(second)
            squared = one + other
            # Welch-Satterthwaite.
            freedom = squared**2 / (one**2 / (len(first) - 1) + other**2 / (len(second) - 1))
        error = np.sqrt(squared)
        margin = error * scipy.stats.t.ppf((1 + confidence) / 2, freedom)
    # Without any deviation there is no uncertainty, as far as these runs tell.
    margin = np.where(error == 0, 0.0, margin)
    return Difference(mean, error, mean - margin, mean + margin, paired)


def value_text(found: Spread, index: int | tuple[()] = ()) -> str:
    """Mean and deviation, ``52.10 ± 0.31``; the mean alone of one run, ``-`` if there is none."""
    mean, deviation = float(found.mean[index]), float(found.deviation[index])
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def common_metrics(runs: Sequence[Mapping[str, float]]) -> list[str]:
    """The metrics that all runs have, in the order of the first."""
    return [metric for metric in runs[0] if all(metric in run for run in runs)]


def _runs(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim == 0 or len(array) == 0:
        raise ValueError("there is no run to take a mean of")
    return array


def _variance(array: np.ndarray) -> np.ndarray:
    if len(array) == 1:
        return np.full(array.shape[1:], np.nan)
    return array.var(axis=0, ddof=1)
