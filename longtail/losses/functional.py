# SPDX-License-Identifier: Apache-2.0
"""Losses against long tails as pure functions, without the mean over samples.

Weighted and balanced softmax are :func:`longtail.losses.cross_entropy.cross_entropy`.

Shape alphabet:
    S: samples: images, valid pixels or RoIs
    K: classes (foreground classes in detection)
    D: K, or K + 1 with background
    G: bins of classes

Labels are 0..K-1, and K for background. z are logits, y is the label, n are counts of training
samples.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, classes: Tensor, gamma: float) -> Tensor:
    r"""Focal loss (Lin et al. 2017) of a softmax.

    .. math::

        l = -(1 - p_y)^\gamma \log p_y

    gamma = 0 is cross-entropy.

    Args:
        logits: (S, D).
        classes: (S,) integers in 0..D-1.
        gamma: >= 0.

    Returns:
        (S,) losses.
    """
    negative_log = F.cross_entropy(logits, classes, reduction="none")
    # The power has no finite derivative at 0 where gamma < 1; the loss there is 0 in any case.
    wrong = (-torch.expm1(-negative_log)).clamp(min=torch.finfo(logits.dtype).eps)
    return wrong**gamma * negative_log


def ldam_margins(class_counts: Tensor, largest: float) -> Tensor:
    """The margins of LDAM (Cao et al. 2019): Delta_j proportional to n_j^(-1/4).

    Args:
        class_counts: (K,) counts n >= 0; a class that does not occur counts as one sample.
        largest: the margin of the rarest class.

    Returns:
        (K,) margins, float32.
    """
    counts = class_counts.double().clamp(min=1)
    return (largest * (counts.min() / counts).pow(0.25)).float()


def ldam_loss(logits: Tensor, classes: Tensor, margins: Tensor) -> Tensor:
    r"""Label-distribution-aware margin loss (Cao et al. 2019).

    .. math::

        l = -\log \frac{\exp(z_y - \Delta_y)}{\exp(z_y - \Delta_y) + \sum_{j \ne y} \exp z_j}

    Margins of 0 are cross-entropy.

    Args:
        logits: (S, D).
        classes: (S,) integers in 0..D-1.
        margins: (D,) Delta.

    Returns:
        (S,) losses.
    """
    index = classes[:, None]
    lowered = logits.scatter_add(1, index, -margins.to(logits)[index])
    return F.cross_entropy(lowered, classes, reduction="none")


def seesaw_loss(
    logits: Tensor,
    classes: Tensor,
    class_counts: Tensor,
    p: float,
    q: float,
    *,
    eps: float = 0.01,
    background: bool = False,
) -> Tensor:
    r"""Seesaw loss (Wang et al. 2021), with the bound of the authors' release (mmdetection).

    .. math::

        l &= -\log \frac{\exp z_y}{\exp z_y + \sum_{j \ne y} M_{yj} C_{yj} \exp z_j} \\
        M_{yj} &= \min\left(1, \left(\frac{n_j}{n_y}\right)^p\right) \\
        C_{yj} &= \max\left(1,
            \left(\frac{\sigma_j}{\max(\sigma_y, \epsilon)}\right)^q\right)

    M mitigates: tail classes are pushed down less. C compensates: unless they were mistaken for y;
    sigma is the softmax of z, through which no gradient flows. epsilon keeps C from growing without
    end for samples that are quite wrong. p = q = 0 is cross-entropy.

    Args:
        logits: (S, D).
        classes: (S,) integers in 0..D-1.
        class_counts: (D,) n >= 0, seen so far; a class that was not seen counts as one sample.
        p: exponent >= 0 of the mitigation.
        q: exponent >= 0 of the compensation.
        eps: epsilon, in [0, 1]; 0 for no bound.
        background: whether D - 1 is the background, for whose samples M is 1.

    Returns:
        (S,) losses.
    """
    with torch.no_grad():
        index = classes[:, None]
        log_counts = class_counts.clamp(min=1).to(logits.dtype).log()
        factors = (log_counts - log_counts[index]).mul_(p).clamp_(max=0)
        if background:
            factors[classes == logits.shape[1] - 1] = 0
        log_p = logits.log_softmax(dim=1)
        own = log_p.gather(1, index).clamp(min=math.log(eps) if eps > 0 else -math.inf)
        factors += (log_p - own).mul_(q).clamp_(min=0)
    return F.cross_entropy(logits + factors, classes, reduction="none")


def softmax_equalization_loss(logits: Tensor, classes: Tensor, left_out: Tensor) -> Tensor:
    r"""Softmax equalization loss (Tan et al. 2020).

    .. math::

        l = -\log \frac{\exp z_y}{\exp z_y + \sum_{j \ne y} (1 - \beta_j T_j) \exp z_j}

    Args:
        logits: (S, K).
        classes: (S,) integers in 0..K-1.
        left_out: (S, K) bool, beta_j T_j: tail classes that a sample leaves alone.

    Returns:
        (S,) losses.
    """
    left_out = left_out.scatter(1, classes[:, None], False)
    return F.cross_entropy(logits.masked_fill(left_out, -torch.inf), classes, reduction="none")


def one_hot(classes: Tensor, num_classes: int) -> Tensor:
    """(S,) labels to (S, K) bool; the background's row is False."""
    return classes[:, None] == torch.arange(num_classes, device=classes.device)


def sigmoid_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of every class: -log sigma(z) where it is the target, else of -z.

    Args:
        logits: (S, K).
        targets: (S, K) bool.

    Returns:
        (S, K) losses.
    """
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")


def sigmoid_focal_losses(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    r"""Focal loss (Lin et al. 2017) of one sigmoid for each class, as of RetinaNet.

    .. math::

        l_j = -\alpha_t (1 - p_t)^\gamma \log p_t

    with p_t = sigma(z_j) and alpha_t = alpha where j is the target, and p_t = 1 - sigma(z_j),
    alpha_t = 1 - alpha elsewhere. gamma = 0, alpha = 1/2 is half of binary cross-entropy.

    Args:
        logits: (S, K).
        targets: (S, K) bool.
        gamma: >= 0.
        alpha: in [0, 1].

    Returns:
        (S, K) losses.
    """
    alphas = torch.where(targets, alpha, 1 - alpha).to(logits)
    # (1 - p_t)^gamma by its logarithm: the power's derivative would be infinite at 0, gamma < 1.
    log_wrong = F.logsigmoid(torch.where(targets, -logits, logits))
    return alphas * (gamma * log_wrong).exp() * sigmoid_losses(logits, targets)


def objectness_losses(logits: Tensor, is_background: Tensor) -> Tensor:
    """Cross-entropy of two outputs, foreground and background, beside those of the classes.

    Args:
        logits: (S, 2).
        is_background: (S,) bool.

    Returns:
        (S,) losses.
    """
    return F.cross_entropy(logits, is_background.long(), reduction="none")


def times_objectness(probabilities: Tensor, logits: Tensor) -> Tensor:
    """Probabilities of classes times that of foreground, and that of background.

    Args:
        probabilities: (S, K), of foreground's classes.
        logits: (S, 2), of foreground and background.

    Returns:
        (S, K + 1) in [0, 1].
    """
    foreground, background = logits.softmax(dim=1).split(1, dim=1)
    return torch.cat([probabilities * foreground, background], dim=1)


def equalization_weights(targets: Tensor, tail: Tensor) -> Tensor:
    r"""Weights of the equalization loss (Tan et al. 2020) on sigmoid losses.

    .. math::

        w_j = 1 - E \, T_j (1 - y_j)

    E is 1 for foreground: objects of other classes say nothing about tail classes, background does.

    Args:
        targets: (S, K) bool, y.
        tail: (K,) bool, T.

    Returns:
        (S, K) bool.
    """
    return targets | ~(targets.any(dim=1, keepdim=True) & tail)


def gradient_guided_weights(
    positive: Tensor, negative: Tensor, *, gamma: float, mu: float, alpha: float
) -> tuple[Tensor, Tensor]:
    r"""Weights of the equalization loss v2 (Tan et al. 2021) on sigmoid losses.

    .. math::

        r_j = f(g_j), \quad q_j = 1 + \alpha (1 - f(g_j)), \quad
        f(g) = \frac{1}{1 + \exp(-\gamma (g - \mu))}

    where g_j is the ratio of what positive and negative samples have pulled at class j so far;
    without negative gradients yet f is 1.

    Args:
        positive: (K,) accumulated gradients >= 0 of positive samples.
        negative: (K,) those of negative samples.
        gamma: steepness of f, > 0.
        mu: the ratio at which f is one half.
        alpha: how much positive samples gain where f is 0, >= 0.

    Returns:
        q of positive and r of negative samples, (K,) each.
    """
    ratio = torch.where(negative > 0, positive / negative, torch.inf)
    weight = torch.sigmoid(gamma * (ratio - mu))
    return 1 + alpha * (1 - weight), weight


def federated_classes(targets: Tensor, sampling_weights: Tensor, number: int) -> Tensor:
    """The classes that the federated loss (Zhou et al. 2021) compares in a batch.

    All that occur in it, filled up to ``number`` by others, which are drawn without replacement
    with probabilities proportional to the weights. As in detectron2 the background is one of those
    that occur, where it does: it takes a place, and is not compared. The draw is that of
    ``torch.multinomial`` from K + 1 weights, hence detectron2's from the same random state.

    Args:
        targets: (S, K) bool; a sample without target is background.
        sampling_weights: (K,) >= 0; classes with 0 are drawn when no others are left.
        number: of classes, background among them, >= 0.

    Returns:
        (K,) bool.
    """
    is_background = ~targets.any(dim=1, keepdim=True)
    present = torch.cat([targets, is_background], dim=1).any(dim=0)
    weights = F.pad(sampling_weights, (0, 1))
    # The largest of w / e, with e exponentially distributed, are such a draw.
    keys = weights / torch.empty_like(weights).exponential_()
    keys = keys.masked_fill(present, torch.inf)
    chosen = keys.topk(min(number, len(keys))).indices
    return present.scatter(0, chosen, True)[:-1]


def bins_of_counts(class_counts: Tensor, upper_ends: list[int]) -> Tensor:
    """(K,) counts to the index of their bin, 0..G-1; the ends are exclusive, the last is open."""
    ends = torch.tensor(upper_ends, dtype=class_counts.dtype, device=class_counts.device)
    return torch.bucketize(class_counts, ends, right=True)


def sample_others(inside: Tensor, beta: float) -> Tensor:
    """The samples that a bin of balanced group softmax learns from (Li et al. 2020).

    Args:
        inside: (S,) bool, samples of the bin's classes.
        beta: how many others are drawn for one of them, >= 0.

    Returns:
        (S,) bool: those inside, and of the others a random part.
    """
    keys = torch.rand(inside.shape, device=inside.device).masked_fill(inside, -1)
    return keys.argsort().argsort() < inside.sum() * (1 + beta)


def group_columns(bins: Tensor, number: int) -> list[Tensor]:
    """The logits of each bin of balanced group softmax: its classes and its "others".

    The K logits of the classes are followed by those of the others of each bin.

    Args:
        bins: (K,) bin of each class, 0..G-1.
        number: G.

    Returns:
        For each bin its columns, that of the others at the end.
    """
    own = [(bins == index).nonzero().flatten() for index in range(number)]
    return [torch.cat([c, c.new_tensor([len(bins) + i])]) for i, c in enumerate(own)]


def group_losses(logits: Tensor, classes: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy within one bin of balanced group softmax (Li et al. 2020).

    .. math::

        l = -\log \frac{\exp z_t}{\sum_j \exp z_j}

    over the columns j of the bin and of its others, with t = y, or the bin's others for a sample
    that is not in it.

    Args:
        logits: (S, at least K + G).
        classes: (S,) integers in 0..K.
        columns: of the bin, see :func:`group_columns`.

    Returns:
        (S,) losses, and (S,) bool: whether the sample is in the bin.
    """
    others = len(columns) - 1
    match = classes[:, None] == columns
    targets = torch.where(match.any(dim=1), match.int().argmax(dim=1), others)
    losses = F.cross_entropy(logits[:, columns], targets, reduction="none")
    return losses, targets < others


def group_probabilities(logits: Tensor, bins: Tensor, number: int) -> Tensor:
    """The softmax of every class in its own bin, of balanced group softmax.

    Args:
        logits: (S, at least K + G).
        bins: (K,) bin of each class, 0..G-1.
        number: G.

    Returns:
        (S, K) in [0, 1]; rows do not add up to 1.
    """
    probabilities = logits.new_empty(len(logits), len(bins))
    for columns in group_columns(bins, number):
        probabilities[:, columns[:-1]] = logits[:, columns].softmax(dim=1)[:, :-1]
    return probabilities
