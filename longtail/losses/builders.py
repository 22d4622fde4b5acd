# SPDX-License-Identifier: Apache-2.0
"""The losses by their names in configs: what each reads from ``MODEL.CLASS_LOSS`` and statistics.

Importing :mod:`longtail.losses` registers them all.

Shape alphabet:
    K: classes (foreground classes in detection)
    D: K, or K + 1 with background
"""

import math

import torch
from detectron2.config import CfgNode
from torch import Tensor

from longtail.losses.base import ClassLoss
from longtail.losses.build import (
    BOXES,
    EVERYWHERE,
    IMAGES,
    PIXELS,
    LossTask,
    loss_option,
    positive_option,
    register_loss,
    training_counts,
    training_iteration,
    training_stats,
)
from longtail.losses.class_weights import (
    effective_number_weights,
    inverse_frequency_weights,
    scale_to_mean_one,
)
from longtail.losses.cross_entropy import CrossEntropy
from longtail.losses.functional import bins_of_counts, ldam_margins
from longtail.losses.groups import BalancedGroupSoftmax
from longtail.losses.pixels import DiceLoss
from longtail.losses.sigmoid import Equalization, Federated, GradientEqualization, SigmoidFocal
from longtail.losses.softmax import LDAM, Focal, Seesaw, SoftmaxEqualization


@register_loss(*EVERYWHERE)
def cross_entropy(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """The baseline."""
    return CrossEntropy(task.num_classes(cfg), background=task.background)


@register_loss(*EVERYWHERE)
def reweighted_cross_entropy(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Cross-entropy weighted by a power of the inverse frequency; background has weight 1."""
    exponent = loss_option(cfg, "REWEIGHT_EXPONENT")
    return _weighted(cfg, task, inverse_frequency_weights(training_counts(cfg, task), exponent))


@register_loss(*EVERYWHERE)
def class_balanced(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Cross-entropy weighted by the effective number of samples; background has weight 1."""
    return _weighted(cfg, task, _effective_weights(cfg, task))


@register_loss(IMAGES, BOXES)
def balanced_softmax(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Balanced softmax; the prior has mean 1, so that background is not shifted."""
    return _balanced(cfg, task, task.statistic)


@register_loss(PIXELS)
def balanced_softmax_pixel_prior(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Balanced softmax over pixels, with the pixels of each class as prior."""
    return _balanced(cfg, task, "pixel_count")


@register_loss(PIXELS)
def balanced_softmax_region_prior(cfg: CfgNode, task: LossTask) -> CrossEntropy:
    """Balanced softmax over pixels, with the images that show each class as prior."""
    return _balanced(cfg, task, "image_count")


@register_loss(*EVERYWHERE)
def focal(cfg: CfgNode, task: LossTask) -> ClassLoss:
    """Focal loss: of a softmax on images and pixels, of sigmoids in detection."""
    gamma, num_classes = loss_option(cfg, "FOCAL_GAMMA"), task.num_classes(cfg)
    if task.background:
        alpha = loss_option(cfg, "FOCAL_ALPHA", 1)
        return SigmoidFocal(num_classes, background=True, gamma=gamma, alpha=alpha)
    return Focal(num_classes, gamma=gamma)


@register_loss(*EVERYWHERE)
def ldam_drw(cfg: CfgNode, task: LossTask) -> LDAM:
    """LDAM with deferred re-weighting; background has margin 0 and weight 1."""
    scale = positive_option(cfg, "LDAM_SCALE")
    margins = ldam_margins(training_counts(cfg, task), scale * loss_option(cfg, "LDAM_MARGIN"))
    start = loss_option(cfg, "LDAM_REWEIGHT_FROM", 1)
    return LDAM(
        task.num_classes(cfg),
        background=task.background,
        margins=_with_background(margins, task, 0),
        deferred_weights=_with_background(_effective_weights(cfg, task), task, 1),
        reweight_from=math.ceil(start * cfg.SOLVER.MAX_ITER),
        iteration=training_iteration,
        scale=scale,
    )


@register_loss(*EVERYWHERE)
def seesaw(cfg: CfgNode, task: LossTask) -> Seesaw:
    """Seesaw loss."""
    return Seesaw(
        task.num_classes(cfg),
        background=task.background,
        p=loss_option(cfg, "SEESAW_P"),
        q=loss_option(cfg, "SEESAW_Q"),
        eps=loss_option(cfg, "SEESAW_EPS", 1),
        objectness=cfg.MODEL.CLASS_LOSS.SEESAW_OBJECTNESS,
    )


@register_loss(PIXELS)
def dice(cfg: CfgNode, task: LossTask) -> DiceLoss:
    """Dice loss alone (Table 6 of the Region Rebalance paper)."""
    return DiceLoss(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)


@register_loss(PIXELS)
def dice_cross_entropy(cfg: CfgNode, task: LossTask) -> DiceLoss:
    """Dice loss and cross-entropy, with weight 1 each (Table 6 of the Region Rebalance paper)."""
    return DiceLoss(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, with_cross_entropy=True)


@register_loss(IMAGES, BOXES)
def eql(cfg: CfgNode, task: LossTask) -> ClassLoss:
    """Equalization loss: of a softmax on images, of sigmoids in detection."""
    threshold, gamma = loss_option(cfg, "EQL_FREQUENCY"), loss_option(cfg, "EQL_GAMMA", 1)
    num_classes = task.num_classes(cfg)
    tail = torch.zeros(num_classes, dtype=torch.bool)
    if stats := training_stats(cfg, task, "image_count"):
        tail = torch.as_tensor(stats.image_count / stats.num_images < threshold)
    if task.background:
        return Equalization(num_classes, background=True, tail=tail)
    return SoftmaxEqualization(num_classes, tail=tail, gamma=gamma)


@register_loss(IMAGES, BOXES)
def eqlv2(cfg: CfgNode, task: LossTask) -> GradientEqualization:
    """Equalization loss v2."""
    return GradientEqualization(
        task.num_classes(cfg),
        background=task.background,
        gamma=loss_option(cfg, "EQLV2_GAMMA"),
        mu=loss_option(cfg, "EQLV2_MU"),
        alpha=loss_option(cfg, "EQLV2_ALPHA"),
    )


@register_loss(IMAGES, BOXES)
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
        bins=bins_of_counts(training_counts(cfg, task), ends),
        num_bins=len(ends) + 1,
        beta=loss_option(cfg, "BAGS_BETA"),
    )


@register_loss(BOXES)
def federated(cfg: CfgNode, task: LossTask) -> Federated:
    """Federated loss: classes are drawn by a power of the images that they are in."""
    counts = training_counts(cfg, task, "image_count")
    return Federated(
        task.num_classes(cfg),
        background=task.background,
        sampling_weights=counts.float().pow(loss_option(cfg, "FEDERATED_POWER")),
        number=loss_option(cfg, "FEDERATED_NUM_CLASSES"),
    )


def _weighted(cfg: CfgNode, task: LossTask, weights: Tensor) -> CrossEntropy:
    return CrossEntropy(
        task.num_classes(cfg),
        background=task.background,
        class_weight=_with_background(weights, task, 1),
    )


def _balanced(cfg: CfgNode, task: LossTask, statistic: str) -> CrossEntropy:
    counts = training_counts(cfg, task, statistic)
    prior = scale_to_mean_one(counts.double(), counts)
    return CrossEntropy(
        task.num_classes(cfg),
        background=task.background,
        class_prior=_with_background(prior, task, 1),
    )


def _effective_weights(cfg: CfgNode, task: LossTask) -> Tensor:
    """The (K,) weights of class_balanced and ldam_drw, with mean 1.

    Of pixels, the images that have a class are counted: pixels are so many that nearly all beta
    would weigh the classes alike, and neighbours add little to each other, which is what an
    effective number is about.
    """
    beta = loss_option(cfg, "EFFECTIVE_NUMBER_BETA", math.nextafter(1, 0))
    counts = training_counts(cfg, task, "image_count" if task is PIXELS else None)
    return effective_number_weights(counts, beta)


def _with_background(values: Tensor, task: LossTask, value: float) -> Tensor:
    """(K,) to (D,)."""
    return torch.cat([values, values.new_tensor([value])]) if task.background else values
