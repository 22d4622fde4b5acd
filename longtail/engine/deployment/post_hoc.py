# SPDX-License-Identifier: Apache-2.0
"""Post hoc methods: a trained linear classifier is changed when its weights are loaded.

They are the alternatives to a second stage that need no training (Table 2 of the DisAlign paper).
What they leave is a linear classifier of the same shape, on any task, but for a nearest class mean
of normalized features, which no linear classifier is, and that of a detector's foreground.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from longtail.data.datasets.classes import check_same_order, class_names
from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.statistics.counting import class_metadata
from longtail.engine.checkpoint import CLASS_NAMES
from longtail.engine.deployment.features import reading
from longtail.engine.deployment.rois import training_logit_moments
from longtail.engine.deployment.score_calibration import calibrate_scores
from longtail.losses import BOXES, EVERYWHERE, PIXELS, LossTask
from longtail.modeling import post_hoc as formulas
from longtail.modeling.linear_classifiers import LinearClassifiers, linear_classifiers
from longtail.modeling.nearest_mean import (
    ClassSums,
    ForegroundNearestMean,
    nearest_class_means,
)

# Where an exported checkpoint names the method that its classifier was changed by.
APPLIED = "post_hoc"
# (K, ...) weight and (K,) bias of a layer's classes to those that take their place; or the modules
# that take the place of the layers.
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | list[nn.Module]

POST_HOC_REGISTRY = Registry("POST_HOC")
POST_HOC_REGISTRY.__doc__ = """
Registry of methods that MODEL.POST_HOC.METHOD names: callables ``method(cfg, model, found)`` of a
config, a trained model and its :class:`.LinearClassifiers` that return how the weight (K, ...) and
the bias (K,) of each of them change. :func:`register_post_hoc` fills it.
"""


def register_post_hoc(
    *,
    reads_training_set: bool = False,
    tasks: Sequence[LossTask] = EVERYWHERE,
    maps_scores: bool = False,
) -> Callable[[Callable], Callable]:
    """Register the decorated method under its own name.

    Args:
        reads_training_set: whether the classes of DATASETS.TRAIN must be those of the weights.
        tasks: the ones that it is for.
        maps_scores: whether it changes what a model gives, not its classifier: ``method(cfg,
            model)`` sees to it in place, and the model needs no linear classifier.
    """

    def register(method: Callable) -> Callable:
        method.reads_training_set, method.tasks = reads_training_set, tuple(tasks)
        method.maps_scores = maps_scores
        POST_HOC_REGISTRY.register(method)
        return method

    return register


@torch.no_grad()
def apply_post_hoc(cfg: CfgNode, model: nn.Module) -> None:
    """Change the linear classifiers of a trained model as ``MODEL.POST_HOC.METHOD`` says, in place.

    The background of a detector stays as it is. So that all classes together neither rise nor fall
    against it, logit adjustment there takes their mean from the margins: lambda log r_j is
    counted from the geometric mean of the r_j.

    Args:
        cfg: the complete config. ``logit_adjustment`` reads how often the classes occur in
            DATASETS.TRAIN (images, pixels or instances), ``ncm`` its images, in one or two passes.
        model: an image classifier, a semantic segmentor or a detector, with its weights loaded.

    Raises:
        ValueError: no such method, or one for another task; a strength out of range; a model
            without linear classifier; no training set, or a class that it lacks.
        OSError: the training set cannot be read.
    """
    method = cfg.MODEL.POST_HOC.METHOD
    if not method:
        return
    if changes_scores_alone(cfg):
        POST_HOC_REGISTRY.get(method)(cfg, model)
        return
    found, change = post_hoc_change(cfg, model)
    K = found.num_classes
    if isinstance(change, list):
        for layer, module in zip(found.layers, change, strict=True):
            _replace(model, layer, module.to(layer.weight).train(model.training))
        logging.getLogger(__name__).info("%s has replaced the classifier of %d classes", method, K)
        return
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
    name = cfg.MODEL.POST_HOC.METHOD
    known = dict(POST_HOC_REGISTRY)
    if name not in known:
        raise ValueError(f"MODEL.POST_HOC.METHOD must be one of {['', *known]}, got {name!r}")
    method = known[name]
    if method.maps_scores:
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {name} maps the scores of a model, and leaves its classifier "
            "as it is: there is no changed classifier to write or to sweep"
        )
    found = linear_classifiers(model, f"MODEL.POST_HOC.METHOD {name}")
    if found.task not in method.tasks:
        others = ", ".join(other for other in known if found.task in known[other].tasks)
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {name} is for {' and '.join(t.samples for t in method.tasks)}, "
            f"not for {cfg.MODEL.META_ARCHITECTURE}: take one of {others}"
        )
    return found, method(cfg, model, found)


def changes_scores_alone(cfg: CfgNode) -> bool:
    """Tell whether ``MODEL.POST_HOC.METHOD`` maps scores, and leaves the classifier as it is."""
    known = dict(POST_HOC_REGISTRY)
    method = cfg.MODEL.POST_HOC.METHOD
    return method in known and known[method].maps_scores


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
    known = dict(POST_HOC_REGISTRY)
    if names and cfg.DATASETS.TRAIN and method in known and known[method].reads_training_set:
        training_set = cfg.DATASETS.TRAIN[0]
        check_same_order(
            class_names(training_set),
            names,
            training_set,
            f"the weights {cfg.MODEL.WEIGHTS}",
            f"MODEL.POST_HOC.METHOD {method} needs the training set of these weights",
        )


@register_post_hoc()
def tau_norm(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    """tau-normalization: weights divided by a power of their length, without bias."""
    keep_bias = cfg.MODEL.POST_HOC.TAU_BIAS == "scale"
    return partial(formulas.tau_norm, tau=cfg.MODEL.POST_HOC.TAU, keep_bias=keep_bias)


@register_post_hoc(reads_training_set=True)
def logit_adjustment(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    """Logit adjustment: logits z_j - lambda log r_j, the margin of Table 2."""
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
        formulas.logit_adjustment,
        class_counts=torch.from_numpy(counts),
        strength=cfg.MODEL.POST_HOC.LAMBDA,
        class_names=stats.class_names,
        centered=found.task.background,
        skip_absent=cfg.MODEL.POST_HOC.SKIP_ABSENT,
    )
    return lambda weight, bias: (weight, adjusted(bias))


@register_post_hoc(reads_training_set=True, tasks=(BOXES,))
def norcal(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    """NorCal: scores divided by (training images)^gamma, normalized with the background."""
    _check_training_set(cfg)
    stats = get_class_stats(cfg.DATASETS.TRAIN)
    shifted = partial(
        formulas.normalized_calibration,
        image_counts=torch.from_numpy(stats.image_count),
        gamma=cfg.MODEL.POST_HOC.GAMMA,
        class_names=stats.class_names,
        skip_absent=cfg.MODEL.POST_HOC.SKIP_ABSENT,
    )
    return lambda weight, bias: (weight, shifted(bias))


@register_post_hoc(reads_training_set=True, tasks=(BOXES,))
def logn(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    """LogN: logits normalized by their mean and deviation over the RoIs of training images."""
    _check_training_set(cfg)
    mean, deviation = training_logit_moments(cfg, model, found)
    return partial(formulas.logit_normalization, mean=mean, deviation=deviation)


@register_post_hoc(tasks=(BOXES,), maps_scores=True)
def score_calibration(cfg: CfgNode, model: nn.Module) -> None:
    """The scores of detections mapped to the probability to be right, by a file."""
    calibrate_scores(cfg, model)


@register_post_hoc(reads_training_set=True)
def ncm(cfg: CfgNode, model: nn.Module, found: LinearClassifiers) -> Change:
    """The classifier that names the nearest mean of centered, normalized features."""
    _check_training_set(cfg)
    options, metadata = cfg.MODEL.POST_HOC, class_metadata(cfg.DATASETS.TRAIN[0])
    # A data set may have both.
    key = "stuff_classes" if found.task is PIXELS else "thing_classes"
    with reading(cfg, model, found) as read:
        nearest = nearest_class_means(
            read,
            found.num_classes,
            [layer.weight.shape[1] for layer in found.layers],
            transform=options.NCM_FEATURES,
            distance=options.NCM_DISTANCE,
            class_names=metadata.get(key),
            skip_absent=options.SKIP_ABSENT,
            add_up=_of_all_processes,
            device=found.layers[0].weight.device,
        )
    if found.task is BOXES:
        pairs = zip(found.layers, nearest, strict=True)
        return [ForegroundNearestMean(*pair) for pair in pairs]
    linear = nearest[0].linear()
    if linear is None:
        return nearest
    return lambda weight, bias: (linear[0].to(weight).view_as(weight), linear[1].to(bias))


def _of_all_processes(sums: ClassSums) -> ClassSums:
    """Those of all processes, added up; on the device of this one's."""
    parts = zip(*comm.all_gather([part.cpu() for part in sums]), strict=True)
    return ClassSums(*(sum(part).to(sums.counts.device) for part in parts))


def _replace(model: nn.Module, layer: nn.Module, other: nn.Module) -> None:
    """Put a module in the place of another one of a model."""
    name = next(name for name, module in model.named_modules() if module is layer)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, other)


def _check_training_set(cfg: CfgNode) -> None:
    if not cfg.DATASETS.TRAIN:
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {cfg.MODEL.POST_HOC.METHOD} reads the training set, but "
            "DATASETS.TRAIN is empty: name the one of these weights"
        )
