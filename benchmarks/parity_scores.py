# SPDX-License-Identifier: Apache-2.0
"""Post hoc methods, second stages and regions against their formulas; see method_parity.py.

Shape alphabet:
    N: samples
    C: channels of features
    K: classes (foreground classes in detection)
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from disalign.calibration import AdaptiveCalibration
from disalign.functional import alignment_loss, generalized_reweight
from region_rebalance.functional import balanced_softmax_loss, pool_regions
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.func import functional_call
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
from benchmarks.parity_losses import SIZES, class_stats, compare_loss
from longtail.data.samplers.by_class import ClassBalancedTrainingSampler
from longtail.evaluation.score_maps import METHODS
from longtail.losses import BOXES, IMAGES, PIXELS, CrossEntropy, LossTask
from longtail.modeling import post_hoc
from longtail.modeling.scaling import ClassScaling
from tests.references import losses as loss_references
from tests.references import methods as references

C, N = 6, 40
TAU, STRENGTH, GAMMA = 0.7, 0.6, 0.6
# DisAlign's exponents of its papers' linear classifiers.
RHO = {IMAGES: 1.2, PIXELS: 0.3, BOXES: 0.8}
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
    nearest = post_hoc.nearest_class_mean(features, labels, K)
    layer = nn.Linear(C, K + 1).double()
    layer.load_state_dict({"weight": weight, "bias": bias})
    foreground = post_hoc.ForegroundNearestMean(layer, nearest)

    def own(x: Tensor) -> Tensor:
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


def retrained(task: LossTask, K: int) -> Iterator[Pair]:
    """CRT's expected loss of a new classifier on frozen features, by its parameters.

    Images and boxes: drawn class-balanced, that is the mean of the classes' mean losses. Pixels:
    the loss with class-balanced weights is a row of its own, ``reweighted_cross_entropy``.
    """
    if task is PIXELS:
        yield from compare_loss("reweighted_cross_entropy", task, K)
        return
    D = K + task.background
    x, weight, bias = numbers((N, C), (D, C), (D,))
    labels = torch.arange(N) ** 2 % min(K, 11)
    images = {int(c): (labels == c).nonzero().flatten().tolist() for c in labels.unique()}
    shares = ClassBalancedTrainingSampler([*images.values()], seed=0).shares(N)
    loss = CrossEntropy(K, background=task.background)

    def own(weight: Tensor, bias: Tensor) -> Tensor:
        z = F.linear(x, weight, bias)
        return sum(p * loss(z[i : i + 1], labels[i : i + 1]) for i, p in enumerate(shares))

    def other(weight: Tensor, bias: Tensor) -> Tensor:
        z = x @ weight.T + bias
        means = [loss_references.balanced_cross_entropy(z[i], labels[i]) for i in images.values()]
        return sum(means) / len(means)

    yield differences(own, other, weight, bias)


def grouped(task: LossTask, K: int) -> Iterator[Pair]:
    """BAGS, whose second stage has the loss of that name."""
    yield from compare_loss("bags", task, K)


def scaled(task: LossTask, K: int) -> Iterator[Pair]:
    """LWS: f_j (w_j.x + b_j); the background's score stays."""
    z, factor = numbers((N, K + task.background), (K,))

    def own(z: Tensor, factor: Tensor) -> Tensor:
        return functional_call(ClassScaling(K), {"factor": factor}, (z,))

    def other(z: Tensor, factor: Tensor) -> Tensor:
        columns = [z[:, j] * factor[j] for j in range(K)]
        return torch.stack([*columns, *z[:, K:].unbind(dim=1)], dim=1)

    yield differences(own, other, z, factor)


def disalign(task: LossTask, K: int) -> Iterator[Pair]:
    """The alignment loss of calibrated scores, Eq. 5 and 6, by z and all that is learned."""
    counts, labels = counts_of(task, K), torch.arange(N) ** 2 % K
    z, x, alpha, beta, w, b = numbers((N, K), (N, C), (K,), (K,), (1, C), (1,))
    own_weights = generalized_reweight(counts, RHO[task])
    weights = references.printed_weights(counts.tolist(), RHO[task])
    for form in ("eq5", "eq6"):
        calibration = AdaptiveCalibration(K, C, form=form).double()

        def own(z: Tensor, *learned: Tensor, calibration: nn.Module = calibration) -> Tensor:
            names = ("alpha", "beta", "confidence_layer.weight", "confidence_layer.bias")
            given = dict(zip(names, learned, strict=True))
            scores = functional_call(calibration, given, (z, x))
            return alignment_loss(scores, labels, own_weights)

        def other(z: Tensor, *learned: Tensor, form: str = form) -> Tensor:
            alpha, beta, w, b = learned
            sigma = 1 / (1 + (-(x @ w.T + b)).exp())
            scores = references.calibrated(form, z, alpha, beta, sigma)
            return loss_references.balanced_cross_entropy(scores, labels, weights)

        yield differences(own, other, z, alpha, beta, w, b)


def region_rebalance(task: LossTask, K: int) -> Iterator[Pair]:
    """The region loss, Eq. 7 and 8, by the pixel features and the region classifier."""
    features, weight, bias = numbers((2, C, 4, 5), (K, C), (K,))
    labels = torch.arange(2 * 8 * 10).view(2, 8, 10) ** 2 % min(K, 97)
    labels[:, ::3] = 255
    counts = torch.from_numpy(class_stats(K).image_count)
    cells = references.nearest_weights(labels, K, (4, 5))

    def own(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        pooled, classes = pool_regions(features, labels, K)
        return balanced_softmax_loss(F.linear(pooled, weight, bias), classes, counts)

    def other(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        regions = references.regions(features, cells)
        z = torch.stack([*regions.values()]) @ weight.T + bias
        classes = torch.tensor([k for _, k in regions])
        return loss_references.balanced_cross_entropy(z, classes, prior=counts.tolist())

    yield differences(own, other, features, weight, bias)


TRANSCRIBED: dict[tuple[str, str], tuple[Compare, tuple[LossTask, ...]]] = {
    ("post hoc", "tau_norm"): (tau_norm, (IMAGES, PIXELS, BOXES)),
    ("post hoc", "logit_adjustment"): (logit_adjustment, (IMAGES, PIXELS, BOXES)),
    ("post hoc", "ncm"): (ncm, (IMAGES, BOXES)),
    ("post hoc", "norcal"): (norcal, (BOXES,)),
    ("post hoc", "logn"): (logn, (BOXES,)),
    ("second stage", "cRT"): (retrained, (IMAGES, PIXELS, BOXES)),
    ("second stage", "BAGS"): (grouped, (IMAGES, BOXES)),
    ("second stage", "LWS"): (scaled, (IMAGES, PIXELS, BOXES)),
    ("second stage", "DisAlign"): (disalign, (IMAGES, PIXELS, BOXES)),
    ("training branch", "Region Rebalance"): (region_rebalance, (PIXELS,)),
}


def compare_scores(sizes: Sequence[int] = tuple(SIZES)) -> Iterator[Comparison]:
    """All that changes scores or trains a part, on every task.

    Args:
        sizes: numbers of classes, of SIZES.
    """
    for (kind, name), (compare, tasks) in TRANSCRIBED.items():
        for task in tasks:
            value, gradient = largest(pair for K in sizes for pair in compare(task, K))
            bound = FLOAT32 if (name, task) == ("cRT", PIXELS) else EXACT
            yield Comparison(
                kind, name, task.samples, TRANSCRIPTION, value, gradient, *bound, tuple(sizes)
            )
    # Both minimize numerically.
    yield Comparison(
        *("post hoc", "score_calibration", BOXES.samples, "scikit-learn"),
        *(score_maps(), None, *FITTED, (1,)),
    )
