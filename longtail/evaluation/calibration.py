# SPDX-License-Identifier: Apache-2.0
"""How far scores are from the probability to be right, as pure functions.

A prediction has a score s and is right (h = 1) or not (h = 0). In image classification it is an
image's best class with its probability, which makes the error below the top-label one; in detection
a box with its score, right where it is matched with ground truth of its class.

Shapes: N predictions, B bins of equal width, K classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Predictions by bins of their score; bin b has the scores of (b / B, (b + 1) / B], and 0.

    Attributes:
        count: (B,) int64 predictions.
        score: (B,) their mean score, NaN in an empty bin.
        precision: (B,) the share of them that is right, likewise.
    """

    count: np.ndarray
    score: np.ndarray
    precision: np.ndarray

    @property
    def error(self) -> float:
        r"""The expected calibration error.

        .. math::

            \mathrm{ECE} = \sum_b \frac{n_b}{N}
            \left| \frac{1}{n_b} \sum_{i \in b} h_i - \frac{1}{n_b} \sum_{i \in b} s_i \right|

        NaN without predictions. (Guo et al., ICML 2017)
        """
        return self._mean(np.abs(self.precision - self.score))

    @property
    def gap(self) -> float:
        """Mean score minus share of right ones: above 0 for too sure, NaN without predictions."""
        return self._mean(self.score - self.precision)

    def _mean(self, values: np.ndarray) -> float:
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        return float(np.average(values[filled], weights=self.count[filled]))


def reliability(scores: npt.ArrayLike, hits: npt.ArrayLike, bins: int = BINS) -> Reliability:
    """Sort predictions into bins of equal width.

    Args:
        scores: (N,) in [0, 1].
        hits: (N,) bool, whether each is right.
        bins: B >= 1.

    Raises:
        ValueError: a score is outside of 0..1, other lengths, or no bin.
    """
    scores, hits = np.asarray(scores, np.float64), np.asarray(hits, np.float64)
    if scores.ndim != 1 or scores.shape != hits.shape:
        raise ValueError(f"expected (N,) scores and hits, got {scores.shape} and {hits.shape}")
    if bins < 1:
        raise ValueError(f"expected 1 bin or more, got {bins}")
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError("a score is outside of 0..1: it is no probability")
    place = np.clip(np.ceil(scores * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        sums = [np.bincount(place, weights=values, minlength=bins) for values in (scores, hits)]
        return Reliability(count, sums[0] / count, sums[1] / count)


def class_errors(
    classes: npt.ArrayLike,
    scores: npt.ArrayLike,
    hits: npt.ArrayLike,
    num_classes: int,
    bins: int = BINS,
) -> np.ndarray:
    r"""The calibration error of every class, over the predictions of this class alone.

    .. math::

        \mathrm{ECE}_c = \sum_b \frac{n_{bc}}{N_c} \left| \overline{h}_{bc} - \overline{s}_{bc}
        \right|, \qquad \text{classwise} = \frac{1}{|\{c : N_c > 0\}|} \sum_{c : N_c > 0}
        \mathrm{ECE}_c

    The mean counts a rare class as much as a frequent one, while ``ECE`` of all predictions lets
    a class that is too sure make up for one that is not sure enough. (Conditional on the predicted
    class as in Gupta and Ramdas, "Top-label calibration", ICLR 2022.)

    Args:
        classes: (N,) the predicted class, 0..K-1.
        scores: (N,) in [0, 1].
        hits: (N,) bool.
        num_classes: K.
        bins: of each class.

    Returns:
        (K,) float64, NaN for a class that is never predicted.

    Raises:
        ValueError: as of :func:`reliability`.
    """
    classes, scores, hits = np.asarray(classes), np.asarray(scores), np.asarray(hits)
    errors = np.full(num_classes, np.nan)
    for index in np.unique(classes):
        mine = classes == index
        errors[index] = reliability(scores[mine], hits[mine], bins).error
    return errors


def brier(scores: npt.ArrayLike, hits: npt.ArrayLike) -> float:
    r"""The mean squared error :math:`\frac{1}{N} \sum_i (s_i - h_i)^2`; NaN for N = 0.

    Args:
        scores: (N,) in [0, 1].
        hits: (N,) bool.
    """
    difference = np.asarray(scores, np.float64) - np.asarray(hits, np.float64)
    return float(np.mean(difference**2)) if len(difference) else float("nan")
