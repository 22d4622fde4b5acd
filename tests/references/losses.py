# SPDX-License-Identifier: Apache-2.0
"""The losses' definitions, written down once more in float64; nothing of ``longtail`` is used.

From the papers and what their releases compute: Seesaw of mmdetection 3.3, LDAM of LDAM-DRW, the
equalization loss of eql.detectron2, the federated loss of detectron2. Tests and
benchmarks/method_parity.py compare with them.

Shape alphabet:
    S: samples: images, valid pixels or RoIs
    K: classes; background is the class K
    D: outputs of the classifier
    G: bins of classes
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def weighted_balanced_cross_entropy(
    rows: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    weight: Sequence[float] | None = None,
    prior: Sequence[float] | None = None,
    ignore: int | None = None,
    weighted_mean: bool = True,
) -> tuple[float, list[list[float]]]:
    """The loss of S samples, and its derivatives by their logits.

        L = sum_i w_yi l_i / D,  l_i = -log p_i(y_i),  p_i(j) = F_j exp(z_ij) / sum_k F_k exp(z_ik)
        dL / dz_ij = w_yi (p_i(j) - [j = y_i]) / D,    D = sum_i w_yi, or the number of samples

    Args:
        rows: (S, K) logits.
        labels: (S,), 0..K-1 or ``ignore``.
        weight, prior: (K,) w and F; None for 1.
        ignore: label of samples that do not count.
        weighted_mean: what D is.
    """
    K = len(rows[0])
    weight, prior = weight or [1.0] * K, prior or [1.0] * K
    total = norm = 0.0
    gradient = []
    for row, y in zip(rows, labels, strict=True):
        if y == ignore:
            gradient.append([0.0] * K)
            continue
        terms = [f * math.exp(z) for f, z in zip(prior, row, strict=True)]
        shares = [term / sum(terms) for term in terms]
        total -= weight[y] * math.log(shares[y])
        norm += weight[y] if weighted_mean else 1
        gradient.append([weight[y] * (p - (j == y)) for j, p in enumerate(shares)])
    return total / norm, [[g / norm for g in row] for row in gradient]


def balanced_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Sequence[float] | None = None,
    prior: Sequence[float] | None = None,
) -> Tensor:
    """:func:`weighted_balanced_cross_entropy` as sums of exponentials that have a gradient."""
    D = logits.shape[1]
    w, f = (
        torch.ones(D, dtype=torch.float64) if x is None else torch.tensor(x, dtype=torch.float64)
        for x in (weight, prior)
    )
    terms = f * logits.exp()
    shares = terms[torch.arange(len(labels)), labels] / terms.sum(dim=1)
    return -(w[labels] * shares.log()).sum() / w[labels].sum()


def mean_one(values: np.ndarray, background: float | None = None) -> list[float]:
    """Values of the classes over their mean, and one more for the background."""
    scaled = np.asarray(values, np.float64) / np.mean(values)
    return [*scaled.tolist(), *([] if background is None else [background])]


def inverse_frequency(counts: np.ndarray, exponent: float) -> np.ndarray:
    """(1 / n)^e."""
    return (1 / counts.astype(np.float64)) ** exponent


def effective_number(counts: np.ndarray, beta: float) -> np.ndarray:
    """(1 - beta) / (1 - beta^n)."""
    return (1 - beta) / (1 - np.float64(beta) ** counts.astype(np.float64))


def softmax_focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 - p)^gamma of the cross-entropy, as LDAM-DRW compares with it."""
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-cross_entropy).exp()) ** gamma * cross_entropy).mean()


def margins(counts: np.ndarray, largest: float) -> np.ndarray:
    """LDAM's, of cosines: proportional to n^(-1/4)."""
    values = counts.astype(np.float64) ** -0.25
    return largest * values / values.max()


def lowered(logits: Tensor, labels: Tensor, margin: Sequence[float]) -> Tensor:
    """LDAM's logits: that of the label less its margin."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return torch.where(own, logits - torch.as_tensor(margin, dtype=torch.float64), logits)


def seesaw(logits, labels, seen, *, p=0.8, q=2.0, eps=1e-2, background=None) -> Tensor:
    """The sum over S samples, with factors on their exponentials.

    Args:
        logits: (S, D).
        labels: (S,).
        seen: (D,) samples counted so far.
        p, q, eps: of the paper and of mmdetection.
        background: the label whose samples mitigate nothing.
    """
    total = torch.zeros((), dtype=torch.float64)
    for z, y in zip(logits, labels.tolist(), strict=True):
        sigma = z.detach().exp() / z.detach().exp().sum()
        factors = torch.ones(len(z), dtype=torch.float64)
        for j in range(len(z)):
            if j == y:
                continue
            ratio = max(seen[j], 1) / max(seen[y], 1)
            if ratio < 1 and y != background:
                factors[j] *= ratio**p
            confused = sigma[j].item() / max(sigma[y].item(), eps)
            if confused > 1:
                factors[j] *= confused**q
        total = total - (z[y].exp() / (factors * z.exp()).sum()).log()
    return total


def objectness(logits: Tensor, inside: Tensor) -> Tensor:
    """The sum of the cross-entropies of (S, 2) outputs, foreground and background."""
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return -torch.where(inside, p[:, 0], p[:, 1]).log().sum()


def seesaw_detector(logits: Tensor, labels: Tensor, seen: Sequence[int]) -> Tensor:
    """Of (S, K + 2) outputs: classes over the foreground, objectness over all, both over S."""
    K = logits.shape[1] - 2
    inside = labels < K
    of_classes = seesaw(logits[inside, :K], labels[inside], seen)
    return (of_classes + objectness(logits[:, K:], inside)) / len(labels)


def binary(logits: Tensor, target: Tensor) -> Tensor:
    """-log sigma(z) where the target is 1, and of -z where it is 0."""
    return target * (1 + (-logits).exp()).log() + (1 - target) * (1 + logits.exp()).log()


def sigmoid_equalization(logits: Tensor, labels: Tensor, rare: np.ndarray) -> Tensor:
    """Of (S, K + 1) outputs; rare classes are no negatives of objects of others."""
    K = logits.shape[1] - 1
    target = F.one_hot(labels, K + 1)[:, :K].double()
    foreground = (labels < K).double()[:, None]
    weight = 1 - foreground * torch.from_numpy(rare.astype(float)) * (1 - target)
    return (weight * binary(logits[:, :K], target)).sum() / len(labels)


def softmax_equalization(logits: Tensor, labels: Tensor, rare: np.ndarray, gamma: float) -> Tensor:
    """Of images: a rare class is left out of a sample's sum where a draw is below gamma."""
    beta = (torch.rand(logits.shape) < gamma).double()
    own = F.one_hot(labels, logits.shape[1]).double()
    kept = 1 - beta * torch.from_numpy(rare.astype(float)) * (1 - own)
    terms = logits.exp()
    return -((own * terms).sum(dim=1) / (kept * terms).sum(dim=1)).log().mean()


class EqualizationV2:
    """The equalization loss v2, with the gradients of positives and negatives that it sums up."""

    def __init__(self, num_classes: int, *, background: bool) -> None:
        self.positive, self.negative = torch.zeros(2, num_classes, dtype=torch.float64)
        self.background = background

    def __call__(self, logits: Tensor, labels: Tensor, *, gamma=12.0, mu=0.8, alpha=4.0) -> Tensor:
        K = len(self.positive)
        target = F.one_hot(labels, K + self.background)[:, :K].double()
        of_negatives = torch.ones(K, dtype=torch.float64)
        for j in range(K):
            if self.negative[j] > 0:
                g = float(self.positive[j] / self.negative[j])
                of_negatives[j] = 1 / (1 + math.exp(-gamma * (g - mu)))
        weight = target * (1 + alpha * (1 - of_negatives)) + (1 - target) * of_negatives
        pull = (weight * (logits[:, :K].sigmoid() - target)).detach().abs()
        self.positive = self.positive + (pull * target).sum(dim=0)
        self.negative = self.negative + (pull * (1 - target)).sum(dim=0)
        total = (weight * binary(logits[:, :K], target)).sum()
        if self.background:
            total = total + binary(logits[:, K], (labels == K).double()).sum()
        return total / len(labels)


def group_softmax(
    logits: Tensor, labels: Tensor, counts: np.ndarray, ends: Sequence[int], beta: float
) -> Tensor:
    """Balanced group softmax of K + G outputs, or K + G + 2 with foreground and background.

    A bin's others are the first beta of them for each of its own samples, in the order of a draw.
    """
    K, G = len(counts), len(ends) + 1
    bins = [sum(n >= end for end in ends) for n in counts.tolist()]
    total = torch.zeros((), dtype=torch.float64)
    for group in range(G):
        columns = [*(j for j in range(K) if bins[j] == group), K + group]
        order = torch.rand(len(labels)).argsort().tolist()
        own = [i for i, y in enumerate(labels.tolist()) if y in columns[:-1]]
        others = [i for i in order if i not in own][: math.ceil(beta * len(own))]
        losses = []
        for i in own + others:
            y = int(labels[i]) if i in own else K + group
            losses.append(-(logits[i, y].exp() / logits[i, columns].exp().sum()).log())
        total = total + sum(losses) / max(len(losses), 1)
    if logits.shape[1] > K + G:
        total = total + objectness(logits[:, -2:], labels < K) / len(labels)
    return total


def federated(logits: Tensor, labels: Tensor, number: int, weights: Tensor) -> Tensor:
    """Unique labels, background among them, filled up by a draw of K + 1 weights; mean over S."""
    unique = labels.unique()
    kept = unique
    if len(unique) < number:
        chances = F.pad(weights.float(), (0, 1))
        chances[unique] = 0
        drawn = min(number - len(unique), int((chances > 0).sum()))
        if drawn:
            kept = torch.cat([unique, torch.multinomial(chances, drawn)])
    mask = torch.zeros(len(weights) + 1, dtype=torch.float64)
    mask[kept] = 1
    count = len(weights)
    targets = F.one_hot(labels, count + 1)[:, :count].double()
    losses = F.binary_cross_entropy_with_logits(logits[:, :count], targets, reduction="none")
    return (losses * mask[:count]).sum() / len(labels)


def dice(logits: Tensor, labels: Tensor, ignore: int = 255) -> Tensor:
    """Soft Dice of (N, K, H, W) logits by loops over images and classes; with a gradient."""
    probability = logits.double().softmax(dim=1)
    scores = []
    for p, label in zip(probability, labels, strict=True):
        valid = label != ignore
        for k in range(logits.shape[1]):
            of_class, g = p[k][valid], (label == k)[valid].double()
            squares = (of_class * of_class).sum() + (g * g).sum()
            scores.append((2 * (of_class * g).sum() + 1) / (squares + 1))
    return 1 - sum(scores) / len(scores)
