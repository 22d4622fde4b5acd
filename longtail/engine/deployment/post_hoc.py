# SPDX-License-Identifier: Apache-2.0
"""Post hoc methods: a trained linear classifier is changed when its weights are loaded.

They are the alternatives to a second stage that need no training (Table 2 of the DisAlign paper).
What they leave is a linear classifier of the same shape, on any task.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from longtail.data.datasets.classes import check_same_order, class_names
from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.statistics.counting import class_metadata
from longtail.engine.checkpoint import CLASS_NAMES
from longtail.engine.deployment.features import training_features
from longtail.losses import IMAGES
from longtail.modeling.linear_classifiers import LinearClassifiers, linear_classifiers
from longtail.modeling.post_hoc import logit_adjustment, nearest_class_mean, tau_norm

# Where an exported checkpoint names the method that its classifier was changed by.
APPLIED = "post_hoc"
# (K, ...) weight and (K,) bias of a layer's classes to those that take their place.
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def apply_post_hoc(cfg: CfgNode, model: nn.Module) -> None:
    """Change the linear classifiers of a trained model as ``MODEL.POST_HOC.METHOD`` says, in place.

    The background of a detector stays as it is. So that all classes together neither rise nor fall
    against it, logit adjustment there takes their mean from the margins: lambda log r_j is
    counted from the geometric mean of the r_j.

    Args:
        cfg: the complete config. ``logit_adjustment`` reads how often the classes occur in
            DATASETS.TRAIN (images, pixels or instances), ``ncm`` its images, in one pass.
        model: an image classifier, a semantic segmentor or a detector, with its weights loaded.

    Raises:
        ValueError: no such method, or one for another task; a strength out of range; a model
            without linear classifier; no training set, or a class that it lacks.
        OSError: the training set cannot be read.
    """
    method = cfg.MODEL.POST_HOC.METHOD
    if not method:
        return
    found, change = post_hoc_change(cfg, model)
    K = found.num_classes
    for layer in found.layers:
        weight, bias = change(layer.weight[:K], layer.bias[:K])
        layer.weight[:K], layer.bias[:K] = weight, bias
    logging.getLogger(__name__).info("%s has changed the classifier of %d classes", method, K)


def post_hoc_change(cfg: CfgNode, model: nn.Module) -> tuple[LinearClassifiers, Change]:
    """The linear classifiers of a model, and how ``MODEL.POST_HOC.METHOD`` changes each of them.

    Args:
        cfg: as of :func:`apply_post_hoc`.
        model: likewise; it is not changed.

    Raises:
        ValueError, OSError: likewise.
    """
    method = cfg.MODEL.POST_HOC.METHOD
    if method not in METHODS:
        raise ValueError(f"MODEL.POST_HOC.METHOD must be one of {['', *METHODS]}, got {method!r}")
    found = linear_classifiers(model, f"MODEL.POST_HOC.METHOD {method}")
    return found, METHODS[method](cfg, model, found)


def check_not_applied(cfg: CfgNode, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to apply a method to what longtail export has written with one.

    Args:
        cfg: the complete config.
        checkpoint: what the weights' file holds besides them.

    Raises:
        ValueError: the config has a method, and the weights as well.
    """
    applied, method = checkpoint.get(APPLIED), cfg.MODEL.POST_HOC.METHOD
    if applied and method:
        raise ValueError(
            f"{applied} has already changed the classifier of {cfg.MODEL.WEIGHTS}: set "
            f"MODEL.POST_HOC.METHOD to '' instead of {method}, or give the first stage's weights"
        )


def check_training_classes(cfg: CfgNode, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a method that reads a training set of other classes than the weights'.

    Args:
        cfg: the complete config.
        checkpoint: what the weights' file holds besides them.

    Raises:
        ValueError: the weights carry the names of their classes, and the first training set has
            others, or the same in another order.
    """
    names, method = checkpoint.get(CLASS_NAMES, ()), cfg.MODEL.POST_HOC.METHOD
    if names and cfg.DATASETS.TRAIN and method in READ_TRAINING_SET:
        training_set = cfg.DATASETS.TRAIN[0]
        check_same_order(
            class_names(training_set),
            names,
            training_set,
            f"the weights {cfg.MODEL.WEIGHTS}",
            f"MODEL.POST_HOC.METHOD {method} needs the training set of these weights",
        )


def _tau_norm(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    return partial(tau_norm, tau=cfg.MODEL.POST_HOC.TAU)


def _logit_adjustment(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    _check_training_set(cfg)
    stats = get_class_stats(cfg.DATASETS.TRAIN)
    statistic = found.task.statistic
    counts = getattr(stats, statistic)
    if counts is None:
        raise ValueError(
            f"logit_adjustment needs the {statistic} of {', '.join(cfg.DATASETS.TRAIN)}, which "
            "does not have such labels"
        )
    adjusted = partial(
        logit_adjustment,
        class_counts=torch.from_numpy(counts),
        strength=cfg.MODEL.POST_HOC.LAMBDA,
        class_names=stats.class_names,
        centered=found.task.background,
    )
    return lambda weight, bias: (weight, adjusted(bias))


def _ncm(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    if found.task != IMAGES:
        raise ValueError(
            "MODEL.POST_HOC.METHOD ncm is for image classification, not for "
            f"{cfg.MODEL.META_ARCHITECTURE}: take tau_norm or logit_adjustment"
        )
    _check_training_set(cfg)
    means = nearest_class_mean(
        *training_features(cfg, model),
        found.num_classes,
        class_names=class_metadata(cfg.DATASETS.TRAIN[0]).get("thing_classes"),
    )
    return lambda weight, bias: (means.to(weight), torch.zeros_like(bias))


METHODS = {"tau_norm": _tau_norm, "logit_adjustment": _logit_adjustment, "ncm": _ncm}
READ_TRAINING_SET = ("logit_adjustment", "ncm")
# They need a feature for each sample.
IMAGES_ALONE = ("ncm",)


def _check_training_set(cfg: CfgNode) -> None:
    if not cfg.DATASETS.TRAIN:
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {cfg.MODEL.POST_HOC.METHOD} reads the training set, but "
            "DATASETS.TRAIN is empty: name the one of these weights"
        )
