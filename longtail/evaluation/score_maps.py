# SPDX-License-Identifier: Apache-2.0
r"""Maps from the score of a prediction to the probability that it is right, one for each class.

With s the score, 0 <= s <= 1, of a prediction of class c, the parametric ones are

.. math::

    \operatorname{logit} s' = a_c \log s - b_c \log (1 - s) + c_c

- ``temperature``: a = b = 1 / T and c = 0, one T for all classes (Guo et al., ICML 2017, on the
  binary logit of a score).
- ``platt``: a = b, with the smoothed targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) (Platt, 1999; the
  logit of the score takes the place of the margin).
- ``beta``: a, b >= 0 (Kull, Silva Filho and Flach, AISTATS 2017).

They minimize the binary cross-entropy, with a, b in [0, 100] and c in [-100, 100], so that every
map is monotone and a class whose scores separate right from wrong has a finite one.
``isotonic`` is the nondecreasing function with the least squared error (Zadrozny and Elkan, KDD
2002), linear between the scores that it was fitted to and constant beyond them.

A class with few right or few wrong predictions takes the map of all classes together.

Shapes: N predictions, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Right ones and wrong ones that a class needs for a map of its own.
FEWEST = 10
# Scores of exactly 0 and 1 have no logit.
SMALLEST = 1e-7
SLOPES = (0.0, 100.0)
SHIFTS = (-100.0, 100.0)


@dataclass(frozen=True)
class Parametric:
    """A map of three coefficients.

    Attributes:
        a: of log s.
        b: of -log(1 - s).
        c: added.
    """

    a: float
    b: float
    c: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Map (N,) scores to (N,) float64 probabilities."""
        from scipy.special import expit  # as in _fit

        scores = np.clip(np.asarray(scores, np.float64), SMALLEST, 1 - SMALLEST)
        return expit(self.a * np.log(scores) - self.b * np.log1p(-scores) + self.c)


@dataclass(frozen=True)
class Isotonic:
    """A nondecreasing map, linear between its knots.

    Attributes:
        scores: rising.
        probabilities: of the same length, none below the one before.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Map (N,) scores to (N,) float64 probabilities."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)


ScoreMap = Parametric | Isotonic


def fit_temperature(scores: np.ndarray, hits: np.ndarray) -> Parametric:
    """One factor of the logit.

    Args:
        scores: (N,) in [0, 1].
        hits: (N,) bool, whether each prediction is right.
    """
    a = _fit(_logs(scores).sum(axis=1, keepdims=True), hits.astype(np.float64), 1, shift=False)
    return Parametric(float(a[0]), float(a[0]), 0.0)


def fit_platt(scores: np.ndarray, hits: np.ndarray) -> Parametric:
    """A factor and a shift of the logit; arguments as of :func:`fit_temperature`."""
    right = np.count_nonzero(hits)
    targets = np.where(hits, (right + 1) / (right + 2), 1 / (len(hits) - right + 2))
    a, c = _fit(_logs(scores).sum(axis=1, keepdims=True), targets, 1)
    return Parametric(float(a), float(a), float(c))


def fit_beta(scores: np.ndarray, hits: np.ndarray) -> Parametric:
    """Factors of both logarithms and a shift; arguments as of :func:`fit_temperature`."""
    return Parametric(*map(float, _fit(_logs(scores), hits.astype(np.float64), 2)))


def fit_isotonic(scores: np.ndarray, hits: np.ndarray) -> Isotonic:
    """The closest nondecreasing function; arguments as of :func:`fit_temperature`."""
    from scipy.optimize import isotonic_regression  # as in _fit

    knots, place, counts = np.unique(
        np.asarray(scores, np.float64), return_inverse=True, return_counts=True
    )
    means = np.bincount(place, weights=hits.astype(np.float64)) / counts
    fitted = isotonic_regression(means, weights=counts).x
    # Both ends of what is constant say it all.
    same = fitted[1:] == fitted[:-1]
    kept = ~(np.append(same, False) & np.insert(same, 0, False))
    return Isotonic(tuple(knots[kept].tolist()), tuple(fitted[kept].tolist()))


METHODS: Mapping[str, Callable[[np.ndarray, np.ndarray], ScoreMap]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "beta": fit_beta,
    "isotonic": fit_isotonic,
}


def fit_score_maps(
    method: str,
    classes: npt.ArrayLike,
    scores: npt.ArrayLike,
    hits: npt.ArrayLike,
    num_classes: int,
) -> list[ScoreMap]:
    """Fit the map of every class.

    Args:
        method: of :data:`METHODS`.
        classes: (N,) the predicted class, 0..K-1.
        scores: (N,) in [0, 1].
        hits: (N,) bool, whether each prediction is right.
        num_classes: K.

    Returns:
        K maps; that of all classes for ``temperature``, and for a class with less than
        :data:`FEWEST` right or wrong predictions.

    Raises:
        ValueError: the method is not known, a score or class is out of range, or all predictions
            together are right, or wrong.
    """
    if method not in METHODS:
        raise ValueError(f"the method must be one of {', '.join(METHODS)}, got {method!r}")
    classes, scores = np.asarray(classes), np.asarray(scores, np.float64)
    hits = np.asarray(hits, bool)
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError(f"{method}: a score is outside of 0..1, which is no probability")
    if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ValueError(f"{method}: a class is outside of 0..{num_classes - 1}")
    right = int(np.count_nonzero(hits))
    if not 0 < right < len(hits):
        raise ValueError(
            f"{method}: {right} of {len(hits)} predictions are right; a map is fitted to some that "
            "are right and some that are wrong"
        )
    fit = METHODS[method]
    shared = fit(scores, hits)
    maps: list[ScoreMap] = [shared] * num_classes
    if method == "temperature":
        return maps
    for index in range(num_classes):
        mine = classes == index
        right = np.count_nonzero(hits[mine])
        if min(right, np.count_nonzero(mine) - right) >= FEWEST:
            maps[index] = fit(scores[mine], hits[mine])
    return maps


def apply_score_maps(
    maps: Sequence[ScoreMap], classes: npt.ArrayLike, scores: npt.ArrayLike
) -> np.ndarray:
    """Map scores by the classes that they are of.

    Args:
        maps: K.
        classes: (N,) 0..K-1.
        scores: (N,).

    Returns:
        (N,) float64 in [0, 1].
    """
    classes = np.asarray(classes)
    mapped = np.asarray(scores, np.float64).copy()
    for index in np.unique(classes):
        mine = classes == index
        mapped[mine] = maps[index](mapped[mine])
    return mapped


def to_json(maps: Sequence[ScoreMap]) -> list[dict[str, Any]]:
    """Maps as lists of numbers, for a file."""
    return [dict(vars(item)) for item in maps]


def from_json(rows: Any) -> list[ScoreMap]:
    """Read what :func:`to_json` gave.

    Args:
        rows: of the file.

    Raises:
        ValueError: they are no such maps.
    """
    try:
        return [_read(row) for row in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"not a list of maps of scores ({error})") from None


def _read(row: Mapping[str, Any]) -> ScoreMap:
    if set(row) == {"a", "b", "c"}:
        found = Parametric(*(float(row[name]) for name in ("a", "b", "c")))
        if not (min(found.a, found.b) >= 0 and np.isfinite([found.a, found.b, found.c]).all()):
            raise ValueError("a and b must be finite and >= 0, c finite")
        return found
    x, y = (np.array(row[name], np.float64) for name in ("scores", "probabilities"))
    rises = len(x) == len(y) > 0 and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
    if not rises or not np.isfinite(x).all() or not 0 <= y[0] <= y[-1] <= 1:
        raise ValueError("scores must rise, and probabilities not fall, within 0..1")
    return Isotonic(tuple(x.tolist()), tuple(y.tolist()))


def _logs(scores: np.ndarray) -> np.ndarray:
    """(N, 2): log s and -log(1 - s)."""
    scores = np.clip(np.asarray(scores, np.float64), SMALLEST, 1 - SMALLEST)
    return np.stack([np.log(scores), -np.log1p(-scores)], axis=1)


def _fit(x: np.ndarray, targets: np.ndarray, slopes: int, *, shift: bool = True) -> np.ndarray:
    """The coefficients with the least mean cross-entropy: a convex problem within bounds."""
    # Takes 0.4 s, which no training is to wait for at its start.
    from scipy.optimize import minimize
    from scipy.special import expit

    if shift:
        x = np.column_stack([x, np.ones(len(x))])

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ coefficients
        gradient = x.T @ (expit(z) - targets) / len(x)
        return float(np.mean(np.logaddexp(0, z) - targets * z)), gradient

    start = np.array([1.0] * slopes + [0.0] * shift)
    bounds = [SLOPES] * slopes + [SHIFTS] * shift
    options = {"ftol": 1e-13, "gtol": 1e-9, "maxiter": 1000}
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
