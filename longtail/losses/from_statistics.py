"""The class losses that read class statistics of the training set.

They are registered here and not in :mod:`longtail.modeling`, which knows nothing of data sets.

Shape alphabet:
    K: classes (foreground classes in detection)
    D: K, or K + 1 with background
"""

import math

import torch
from detectron2.config import CfgNode
from torch import Tensor

from longtail.data.statistics.class_stats import ClassStats, get_class_stats
from longtail.losses import (
    BOXES,
    EVERYWHERE,
    IMAGES,
    LDAM,
    PIXELS,
    BalancedGroupSoftmax,
    ClassLoss,
    CrossEntropy,
    Equalization,
    Federated,
    LossTask,
    SoftmaxEqualization,
    loss_option,
    register_class_loss,
)
from longtail.losses.cross_entropy import (
    effective_number_weights,
    inverse_frequency_weights,
    scale_to_mean_one,
)
from longtail.losses.functional import bins_of_counts, ldam_margins


def training_stats(cfg: CfgNode, task: LossTask, statistic: str) -> ClassStats:
    """The class statistics of the training set.

    Args:
        cfg: a complete config.
        task: whose loss needs them.
        statistic: the count that it needs.

    Raises:
        ValueError: there is no training set, or it has not this count for NUM_CLASSES classes.
    """
    stats = get_class_stats(cfg.DATASETS.TRAIN)
    counts = getattr(stats, statistic)
    expected = task.num_classes(cfg)
    if counts is None or len(counts) != expected:
        found = "no such count" if counts is None else f"{len(counts)} classes"
        raise ValueError(
            f"{task.loss_key} {task.loss_name(cfg)} needs the {statistic} of NUM_CLASSES "
            f"{expected} classes, but {', '.join(cfg.DATASETS.TRAIN)} has {found}"
        )
    return stats


def _counts(cfg: CfgNode, task: LossTask, statistic: str | None = None) -> Tensor:
    """(K,) counts of the training set, by default those of the task.

    Without a training set, for inference, they are 1: nothing reads them.
    """
    if not cfg.DATASETS.TRAIN:
        return torch.ones(task.num_classes(cfg), dtype=torch.int64)
    statistic = statistic or task.statistic
    return torch.as_tensor(getattr(training_stats(cfg, task, statistic), statistic))


def _with_background(values: Tensor, task: LossTask, value: float) -> Tensor:
    """(K,) to (D,)."""
    return torch.cat([values, values.new_tensor([value])]) if task.background else values


def inverse_weights(cfg: CfgNode, counts: Tensor) -> Tensor:
    """The (K,) weights of reweighted_cross_entropy, with mean 1, from (K,) counts."""
    return inverse_frequency_weights(counts, loss_option(cfg, "REWEIGHT_EXPONENT"))


def effective_weights(cfg: CfgNode, task: LossTask) -> Tensor:
    """The (K,) weights of class_balanced and ldam_drw, with mean 1.

    Of pixels, the images that have a class are counted: pixels are so many that nearly all beta
    would weigh the classes alike, and neighbours add little to each other, which is what an
    effective number is about.
    """
    beta = loss_option(cfg, "EFFECTIVE_NUMBER_BETA", math.nextafter(1, 0))
    counts = _counts(cfg, task, "image_count" if task is PIXELS else None)
    return effective_number_weights(counts, beta)


@register_class_loss(*EVERYWHERE)
def reweighted_cross_entropy(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Cross-entropy weighted by a power of the inverse frequency; background has weight 1."""
    weights = inverse_weights(cfg, _counts(cfg, task))
    return _weighted(cfg, task, weights)


@register_class_loss(*EVERYWHERE)
def class_balanced(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Cross-entropy weighted by the effective number of samples; background has weight 1."""
    weights = effective_weights(cfg, task)
    return _weighted(cfg, task, weights)


def _weighted(cfg: CfgNode, task: LossTask, weights: Tensor) -> CrossEntropy:
    return CrossEntropy(
        task.num_classes(cfg),
        background=task.background,
        class_weight=_with_background(weights, task, 1),
    )


@register_class_loss(IMAGES, BOXES)
def balanced_softmax(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Balanced softmax: the prior is scaled to mean 1, so that background is not shifted."""
    counts = _counts(cfg, task)
    prior = scale_to_mean_one(counts.double(), counts)
    return CrossEntropy(
        task.num_classes(cfg),
        background=task.background,
        class_prior=_with_background(prior, task, 1),
    )


@register_class_loss(*EVERYWHERE)
def ldam_drw(cfg: CfgNode, task: LossTask) -> LDAM:
    """LDAM with deferred re-weighting; background has margin 0 and weight 1."""
    margins = ldam_margins(_counts(cfg, task), loss_option(cfg, "LDAM_MARGIN"))
    start = loss_option(cfg, "LDAM_REWEIGHT_FROM", 1)
    return LDAM(
        task.num_classes(cfg),
        background=task.background,
        margins=_with_background(margins, task, 0),
        deferred_weights=_with_background(effective_weights(cfg, task), task, 1),
        reweight_from=math.ceil(start * cfg.SOLVER.MAX_ITER),
    )


@register_class_loss(IMAGES, BOXES)
def eql(cfg: CfgNode, task: LossTask) -> ClassLoss:
    """Equalization loss: of a softmax on images, of sigmoids in detection."""
    threshold, gamma = loss_option(cfg, "EQL_FREQUENCY"), loss_option(cfg, "EQL_GAMMA", 1)
    num_classes = task.num_classes(cfg)
    tail = torch.zeros(num_classes, dtype=torch.bool)
    if cfg.DATASETS.TRAIN:
        stats = training_stats(cfg, task, "image_count")
        tail = torch.as_tensor(stats.image_count / stats.num_images < threshold)
    if task.background:
        return Equalization(num_classes, background=True, tail=tail)
    return SoftmaxEqualization(num_classes, tail=tail, gamma=gamma)


@register_class_loss(IMAGES, BOXES)
def bags(cfg: CfgNode, task: LossTask) -> BalancedGroupSoftmax:
    """Balanced group softmax."""
    ends = list(cfg.MODEL.CLASS_LOSS.BAGS_BINS)
    if not ends or any(low >= high for low, high in zip([0, *ends], ends, strict=False)):
        raise ValueError(
            f"MODEL.CLASS_LOSS.BAGS_BINS must be counts > 0 in ascending order, got {ends}"
        )
    return BalancedGroupSoftmax(
        task.num_classes(cfg),
        background=task.background,
        bins=bins_of_counts(_counts(cfg, task), ends),
        num_bins=len(ends) + 1,
        beta=loss_option(cfg, "BAGS_BETA"),
    )


@register_class_loss(BOXES)
def federated(cfg: CfgNode, task: LossTask) -> Federated:
    """Federated loss: classes are drawn by a power of the images that they are in."""
    counts = _counts(cfg, task, "image_count")
    return Federated(
        task.num_classes(cfg),
        background=task.background,
        sampling_weights=counts.float().pow(loss_option(cfg, "FEDERATED_POWER")),
        number=loss_option(cfg, "FEDERATED_NUM_CLASSES"),
    )
