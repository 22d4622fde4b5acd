# SPDX-License-Identifier: Apache-2.0
"""Post hoc methods against their formulas; see method_parity.py.

Shape alphabet:
    N: samples
    C: channels of features
    K: classes (foreground classes in detection)
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.parity import (
    EXACT,
    FITTED,
    FLOAT32,
    TRANSCRIPTION,
    Comparison,
    difference,
    differences,
    largest,
)
from benchmarks.parity_losses import SIZES, class_stats
from longtail.evaluation.score_maps import METHODS
from longtail.losses import BOXES, IMAGES, PIXELS, LossTask
from longtail.modeling import post_hoc
from longtail.modeling.nearest_mean import ForegroundNearestMean, nearest_class_mean
from tests.references import methods as references

C, N = 6, 40
TAU, STRENGTH, GAMMA = 0.7, 0.6, 0.6
Pair = tuple[float, float]
Compare = Callable[[LossTask, int], Iterator[Pair]]


def numbers(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Standard normal float64 tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def counts_of(task: LossTask, K: int) -> Tensor:
    """(K,) training samples of the classes."""
    return torch.from_numpy(getattr(class_stats(K), task.statistic))


def tau_norm(task: LossTask, K: int) -> Iterator[Pair]:
    """The published form, without bias; of pixels a convolution."""
    x, weight, bias = numbers((N, C), (K, C), (K,))

    def own(x: Tensor, weight: Tensor) -> Tensor:
        if task is PIXELS:
            maps, changed = (y[:, :, None, None] for y in (x, weight))
            return F.conv2d(maps, *post_hoc.tau_norm(changed, bias, TAU)).flatten(1)
        return F.linear(x, *post_hoc.tau_norm(weight, bias, TAU))

    yield differences(
        own, lambda x, weight: references.normalized_scores(x, weight, TAU), x, weight
    )


def logit_adjustment(task: LossTask, K: int) -> Iterator[Pair]:
    """The margins; beside a background less their mean."""
    z, bias = numbers((N, K), (K,))
    counts, centered = counts_of(task, K), task.background
    yield differences(
        lambda z, b: z + post_hoc.logit_adjustment(b, counts, STRENGTH, centered=centered),
        lambda z, b: references.adjusted_scores(
            z + b, counts.tolist(), STRENGTH, centered=centered
        ),
        z,
        bias,
    )


def ncm(task: LossTask, K: int) -> Iterator[Pair]:
    """Centered features of length 1, Euclidean; of boxes beside the background's probability."""
    x, features, weight, bias = numbers((N, C), (3 * K, C), (K + 1, C), (K + 1,))
    labels = torch.arange(3 * K) % K
    nearest = nearest_class_mean(features, labels, K)
    layer = nn.Linear(C, K + 1).double()
    layer.load_state_dict({"weight": weight, "bias": bias})
    foreground = ForegroundNearestMean(layer, nearest)

    def own(x: Tensor) -> Tensor:
        if task is PIXELS:
            return nearest(x.T.view(1, C, 5, N // 5)).flatten(2)[0].T
        return foreground(x).softmax(dim=1) if task is BOXES else nearest(x)

    def other(x: Tensor) -> Tensor:
        logits = references.centered_nearest_means(x, features, labels, K)
        if task is BOXES:
            return references.shared_among_foreground(x @ weight.T + bias, logits)
        return logits

    yield differences(own, other, x)


def norcal(task: LossTask, K: int) -> Iterator[Pair]:
    """Probabilities divided by a power of the training images."""
    (z,), counts = numbers((N, K + 1)), torch.from_numpy(class_stats(K).image_count)
    shift = post_hoc.normalized_calibration(torch.zeros(K).double(), counts, GAMMA)
    yield differences(
        lambda z: (z + F.pad(shift, (0, 1))).softmax(dim=1),
        lambda z: references.divided_probabilities(z, counts.tolist(), GAMMA),
        z,
    )


def logn(task: LossTask, K: int) -> Iterator[Pair]:
    """Scores by the moments of the training's."""
    x, weight, bias = numbers((N, C), (K, C), (K,))
    means, deviations = references.class_moments(x @ weight.T + bias)
    moments = [torch.tensor(values, dtype=torch.float64) for values in (means, deviations)]

    def other(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        z = x @ weight.T + bias
        rows = zip(z.T, means, deviations, strict=True)
        return torch.stack([(row - m + min(means)) / s for row, m, s in rows], dim=1)

    yield differences(
        lambda x, w, b: F.linear(x, *post_hoc.logit_normalization(w, b, *moments)),
        other,
        *(x, weight, bias),
    )


def score_maps() -> float:
    """All maps of one class against scikit-learn's logistic and isotonic regressions."""
    generator = np.random.default_rng(0)
    scores = np.round(generator.beta(2, 2, 600), 3).clip(0.001, 0.999)
    hits = generator.random(600) < 1 / (1 + np.exp(0.4 - 0.6 * np.log(scores / (1 - scores))))
    right = hits.sum()
    smoothed = np.where(hits, (right + 1) / (right + 2), 1 / (600 - right + 2))
    both = np.stack([np.log(scores), -np.log1p(-scores)], axis=1)
    logit = both.sum(axis=1, keepdims=True)

    def regression(x: np.ndarray, targets: np.ndarray, *, intercept: bool = True) -> np.ndarray:
        # Targets between 0 and 1: each sample as a right and as a wrong one.
        model = LogisticRegression(
            C=np.inf, fit_intercept=intercept, solver="newton-cholesky", tol=1e-14
        )
        labels = np.repeat([1, 0], len(x))
        model.fit(np.vstack([x, x]), labels, np.concatenate([targets, 1 - targets]))
        return model.predict_proba(x)[:, 1]

    isotonic = IsotonicRegression(out_of_bounds="clip").fit(scores, hits)
    expected = {
        "temperature": regression(logit, hits, intercept=False),
        "platt": regression(logit, smoothed),
        "beta": regression(both, hits),
        "isotonic": isotonic.predict(scores),
    }
    return max(
        difference(*(torch.from_numpy(p) for p in (fit(scores, hits)(scores), expected[name])))
        for name, fit in METHODS.items()
    )


def compared(
    kind: str,
    name: str,
    compare: Compare,
    tasks: Sequence[LossTask],
    sizes: Sequence[int],
    *,
    of_float32: Sequence[LossTask] = (),
) -> Iterator[Comparison]:
    """One method on every task that it is for.

    Args:
        kind: see :class:`.Comparison`.
        name: likewise.
        compare: gives differences for a task and a number of classes.
        tasks: that it is for.
        sizes: numbers of classes.
        of_float32: the tasks on which its class weights are those of a module, which keeps them in
            float32.
    """
    for task in tasks:
        value, gradient = largest(pair for K in sizes for pair in compare(task, K))
        bound = FLOAT32 if task in of_float32 else EXACT
        yield Comparison(
            kind, name, task.samples, TRANSCRIPTION, value, gradient, *bound, tuple(sizes)
        )


TRANSCRIBED: dict[str, tuple[Compare, tuple[LossTask, ...]]] = {
    "tau_norm": (tau_norm, (IMAGES, PIXELS, BOXES)),
    "logit_adjustment": (logit_adjustment, (IMAGES, PIXELS, BOXES)),
    "ncm": (ncm, (IMAGES, PIXELS, BOXES)),
    "norcal": (norcal, (BOXES,)),
    "logn": (logn, (BOXES,)),
}


def compare_scores(sizes: Sequence[int] = tuple(SIZES)) -> Iterator[Comparison]:
    """All post hoc methods, on every task.

    Args:
        sizes: numbers of classes, of SIZES.
    """
    for name, (compare, tasks) in TRANSCRIBED.items():
        yield from compared("post hoc", name, compare, tasks, sizes)
    # Both minimize numerically.
    yield Comparison(
        *("post hoc", "score_calibration", BOXES.samples, "scikit-learn"),
        *(score_maps(), None, *FITTED, (1,)),
    )
