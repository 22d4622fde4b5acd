# SPDX-License-Identifier: Apache-2.0
"""The tasks, the registry of losses, and building one by its name in a config.

This module and :mod:`longtail.losses.builders` are the only ones here that know configs, class
statistics and detectron2; the losses themselves take plain tensors.

Shape alphabet:
    K: classes (foreground classes in detection)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from longtail.config import get_value
from longtail.data.statistics.class_stats import ClassStats, get_class_stats
from longtail.losses.base import ClassLoss
from longtail.losses.pixels import PixelLoss

LOSS_REGISTRY = Registry("LOSS")
LOSS_REGISTRY.__doc__ = """
Registry of losses: callables ``build(cfg, task)`` of a config and a :class:`LossTask` that return a
:class:`~longtail.losses.ClassLoss`, or for pixels a module of (N, K, H, W) logits and (N, H, W)
labels with, for gradient accumulation, a ``normalizer(labels)``. :func:`register_loss` says for
which tasks.
"""


@dataclass(frozen=True)
class LossTask:
    """The samples of a classifier, and where a config speaks of them.

    Attributes:
        samples: their name in messages.
        loss_key: config key that names the loss.
        classes_key: config key of K.
        background: whether a sample may be of no class; it then has the label K.
        statistic: how often a class occurs: the attribute of the training set's class statistics.
        in_inference: whether models are built with their loss for inference, too, whose
            probabilities they give. Semantic heads have plain cross-entropy there (see
            :func:`longtail.config.deployed_config`).
    """

    samples: str
    loss_key: str
    classes_key: str
    background: bool
    statistic: str
    in_inference: bool

    def loss_name(self, cfg: CfgNode) -> str:
        """The loss that a config names."""
        return get_value(cfg, self.loss_key)

    def num_classes(self, cfg: CfgNode) -> int:
        """K in a config."""
        return get_value(cfg, self.classes_key)


IMAGES = LossTask(
    "images",
    "MODEL.CLASSIFIER.LOSS",
    "MODEL.CLASSIFIER.NUM_CLASSES",
    background=False,
    statistic="image_count",
    in_inference=True,
)
PIXELS = LossTask(
    "pixels",
    "MODEL.SEM_SEG_HEAD.PIXEL_LOSS",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    background=False,
    statistic="pixel_count",
    in_inference=False,
)
BOXES = LossTask(
    "boxes",
    "MODEL.ROI_BOX_HEAD.CLASS_LOSS",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    background=True,
    statistic="instance_count",
    in_inference=True,
)
EVERYWHERE = (IMAGES, PIXELS, BOXES)


def register_loss(*tasks: LossTask) -> Callable[[Callable], Callable]:
    """Register the decorated builder, ``build(cfg, task)``, under its own name, for some tasks."""

    def register(build: Callable) -> Callable:
        build.tasks = tasks
        LOSS_REGISTRY.register(build)
        return build

    return register


def loss_names(task: LossTask) -> list[str]:
    """The losses that are defined for a task."""
    return sorted(name for name, build in LOSS_REGISTRY if task in build.tasks)


def build_loss(cfg: CfgNode, task: LossTask) -> ClassLoss | nn.Module:
    """The loss that a config names for a task.

    Args:
        cfg: a complete config; ``task.loss_key`` is read, and what the loss needs of
            ``MODEL.CLASS_LOSS`` and of the class statistics of ``DATASETS.TRAIN``.
        task: IMAGES, PIXELS or BOXES.

    Returns:
        For images and boxes a :class:`~longtail.losses.ClassLoss`; for pixels a module
        ``loss(logits (N,K,H,W), labels (N,H,W)) -> scalar`` with a ``normalizer(labels)``.

    Raises:
        ValueError: no loss has that name, or it is not defined for the task; an option out of
            range; or class statistics that do not belong to the config.
    """
    name, known = task.loss_name(cfg), loss_names(task)
    if name not in known:
        where = ""
        if name in LOSS_REGISTRY:
            tasks = LOSS_REGISTRY.get(name).tasks
            where = f", which is defined for {' and '.join(t.samples for t in tasks)} alone"
        raise ValueError(f"{task.loss_key} must be one of {', '.join(known)}, got {name!r}{where}")
    loss = LOSS_REGISTRY.get(name)(cfg, task)
    if task is PIXELS and isinstance(loss, ClassLoss):
        return PixelLoss(loss, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    return loss


def loss_option(cfg: CfgNode, name: str, high: float = math.inf) -> Any:
    """``MODEL.CLASS_LOSS.<name>``, a number.

    Raises:
        ValueError: it is not in [0, high].
    """
    value = cfg.MODEL.CLASS_LOSS[name]
    # Not "value < 0": that would let NaN pass.
    if not 0 <= value <= high:
        raise ValueError(f"MODEL.CLASS_LOSS.{name} must be in [0, {high}], got {value}")
    return value


def positive_option(cfg: CfgNode, name: str) -> float:
    """``MODEL.CLASS_LOSS.<name>``, a finite number above 0.

    Raises:
        ValueError: it is none.
    """
    value = cfg.MODEL.CLASS_LOSS[name]
    if not 0 < value < math.inf:
        raise ValueError(f"MODEL.CLASS_LOSS.{name} must be finite and > 0, got {value}")
    return value


def training_stats(cfg: CfgNode, task: LossTask, statistic: str) -> ClassStats | None:
    """The class statistics of the training set; None if nothing will read them.

    That is in inference, without a training set.

    Args:
        cfg: a complete config.
        task: whose loss needs them.
        statistic: the count that it needs.

    Raises:
        ValueError: there is no training set, or it does not have this count for NUM_CLASSES
            classes.
    """
    if task.in_inference and not cfg.DATASETS.TRAIN:
        return None
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


def training_counts(cfg: CfgNode, task: LossTask, statistic: str | None = None) -> Tensor:
    """(K,) counts of the training set, by default the task's; 1 if nothing will read them.

    Args, raises: see :func:`training_stats`.
    """
    statistic = statistic or task.statistic
    stats = training_stats(cfg, task, statistic)
    if stats is None:
        return torch.ones(task.num_classes(cfg), dtype=torch.int64)
    return torch.as_tensor(getattr(stats, statistic))


def training_iteration() -> int:
    """The iteration of the training that runs; 0 outside of one."""
    try:
        return get_event_storage().iter
    except AssertionError:
        return 0
