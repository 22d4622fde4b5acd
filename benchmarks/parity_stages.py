# SPDX-License-Identifier: Apache-2.0
"""Second stages and regions against their formulas; see method_parity.py.

Shape alphabet:
    N: samples
    C: channels of features
    K: classes (foreground classes in detection)
"""

from collections.abc import Iterator, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.utils.events import EventStorage
from disalign.calibration import AdaptiveCalibration
from disalign.functional import alignment_loss, generalized_reweight
from disalign.queries import DisAlignQueryHead
from region_rebalance.functional import balanced_softmax_loss, pool_regions
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.parity import Comparison, differences
from benchmarks.parity_losses import SIZES, class_stats, compare_loss
from benchmarks.parity_scores import C, Compare, N, Pair, compared, counts_of, numbers
from longtail.data.samplers.by_class import ClassBalancedTrainingSampler
from longtail.losses import BOXES, IMAGES, PIXELS, CrossEntropy, LossTask
from longtail.modeling import Mask2FormerHead
from longtail.modeling.scaling import ClassScaling
from longtail.modeling.sem_seg.mask2former import Queries
from longtail.modeling.sem_seg.wrapping import innermost
from tests.references import losses as loss_references
from tests.references import methods as references

# DisAlign's exponents of its papers' linear classifiers.
RHO = {IMAGES: 1.2, PIXELS: 0.3, BOXES: 0.8}
# Of queries: channels of their states, whose norms have groups of 32; the weight of "no object".
STATES, NO_OBJECT = 32, 0.1


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


def disalign_of_queries(task: LossTask, K: int) -> Iterator[Pair]:
    """The training loss of a head of queries whose classes are given, Eq. 5 and 6.

    Weights are by images, that of "no object" is the first stage's.
    """
    counts = torch.from_numpy(class_stats(K).image_count)
    labels = torch.arange(N) ** 2 % K
    labels[::3] = K
    z, x, alpha, beta, w, b = numbers((N, K + 1), (N, STATES), (K,), (K,), (1, STATES), (1,))
    weights = [*references.printed_weights(counts.tolist(), RHO[task]), NO_OBJECT]
    for form in ("eq5", "eq6"):
        head = query_head(K, generalized_reweight(counts, RHO[task]), form)
        inner = innermost(head)
        inner.matched_classes = lambda queries, targets: labels[None]

        def own(
            z: Tensor,
            x: Tensor,
            *learned: Tensor,
            head: nn.Module = head,
            inner: nn.Module = inner,
        ) -> Tensor:
            names = ("alpha", "beta", "confidence_layer.weight", "confidence_layer.bias")
            given = {f"calibration.{n}": p for n, p in zip(names, learned, strict=True)}
            inner.queries = lambda features: Queries(x[None], [z[None]], [])
            with EventStorage():
                return functional_call(head, given, ({}, labels))[1]["loss_cross_entropy"]

        def other(z: Tensor, x: Tensor, *learned: Tensor, form: str = form) -> Tensor:
            alpha, beta, w, b = learned
            sigma = 1 / (1 + (-(x @ w.T + b)).exp())
            scores = references.calibrated_queries(form, z, alpha, beta, sigma[:, 0])
            return loss_references.balanced_cross_entropy(scores, labels, weights)

        yield differences(own, other, z, x, alpha, beta, w, b)


def query_head(K: int, class_weights: Tensor, form: str) -> nn.Module:
    """A small Mask2Former's second stage, in training."""
    levels = {f"res{n}": ShapeSpec(channels=4, stride=2**n) for n in (2, 3, 4, 5)}
    sizes = {"feature_size": STATES, "mask_feature_size": STATES, "hidden_dim": STATES}
    first = Mask2FormerHead(
        input_shape=levels,
        in_features=tuple(levels),
        num_classes=K,
        options={
            **sizes,
            "num_queries": N,
            "num_attention_heads": 1,
            "encoder_layers": 1,
            "encoder_feedforward_dim": 4,
            "decoder_layers": 2,
            "dim_feedforward": 4,
            "no_object_weight": NO_OBJECT,
        },
    )
    second = DisAlignQueryHead(
        first,
        num_classes=K,
        class_weights=class_weights,
        class_groups={},
        calibration={"form": form},
    )
    return second.double().train()


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
    ("second stage", "cRT"): (retrained, (IMAGES, PIXELS, BOXES)),
    ("second stage", "BAGS"): (grouped, (IMAGES, BOXES)),
    ("second stage", "LWS"): (scaled, (IMAGES, PIXELS, BOXES)),
    ("second stage", "DisAlign"): (disalign, (IMAGES, PIXELS, BOXES)),
    ("second stage", "DisAlign of queries"): (disalign_of_queries, (PIXELS,)),
    ("training branch", "Region Rebalance"): (region_rebalance, (PIXELS,)),
}
OF_FLOAT32 = {"cRT": (PIXELS,), "DisAlign of queries": (PIXELS,)}


def compare_stages(sizes: Sequence[int] = tuple(SIZES)) -> Iterator[Comparison]:
    """All that trains a part, on every task.

    Args:
        sizes: numbers of classes, of SIZES.
    """
    for (kind, name), (compare, tasks) in TRANSCRIBED.items():
        exempt = OF_FLOAT32.get(name, ())
        yield from compared(kind, name, compare, tasks, sizes, of_float32=exempt)
