"""What a class loss is, and how one is chosen by its name.

Shape alphabet:
    S: samples: images, valid pixels or RoIs
    K: classes (foreground classes in detection)
    D: outputs of the classifier
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.losses.cross_entropy import mean_over_processes, total_weight

# No label is left out: which samples count is decided before.
NO_LABEL = -100

CLASS_LOSS_REGISTRY = Registry("CLASS_LOSS")
CLASS_LOSS_REGISTRY.__doc__ = """
Registry of class losses: callables of a config and a :class:`LossTask` that return a
:class:`ClassLoss`; :func:`register_class_loss` says for which tasks.
"""


@dataclass(frozen=True)
class LossTask:
    """What the samples of a classifier are.

    Attributes:
        samples: their name in messages.
        loss_key: config key that names the loss.
        classes_key: config key of K.
        background: whether a sample may be of no class; it then has the label K.
        statistic: how often a class occurs: the attribute of the training set's class statistics.
    """

    samples: str
    loss_key: str
    classes_key: str
    background: bool
    statistic: str

    def loss_name(self, cfg: CfgNode) -> str:
        """The loss that a config names."""
        return _value(cfg, self.loss_key)

    def num_classes(self, cfg: CfgNode) -> int:
        """K in a config."""
        return _value(cfg, self.classes_key)


def _value(cfg: CfgNode, key: str) -> Any:
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)


IMAGES = LossTask(
    "images", "MODEL.CLASSIFIER.LOSS", "MODEL.CLASSIFIER.NUM_CLASSES", False, "image_count"
)
PIXELS = LossTask(
    "pixels",
    "MODEL.SEM_SEG_HEAD.PIXEL_LOSS",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    False,
    "pixel_count",
)
BOXES = LossTask(
    "boxes",
    "MODEL.ROI_BOX_HEAD.CLASS_LOSS",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    True,
    "instance_count",
)
EVERYWHERE = (IMAGES, PIXELS, BOXES)


class ClassLoss(nn.Module):
    """A loss of class scores, and the probabilities that they stand for.

    Attributes:
        is_softmax: whether the probabilities are the softmax of one logit for each class (and one
            for the background).
        initial_bias: what the bias of a new linear classifier should start from.
    """

    is_softmax = True
    initial_bias = 0.0

    def __init__(self, num_classes: int, *, background: bool = False) -> None:
        """
        Args:
            num_classes: K.
            background: whether samples may be background, with label and last column K.
        """
        super().__init__()
        self.num_classes = num_classes
        self.background = background

    @property
    def num_logits(self) -> int:
        """D, the outputs that the classifier must have."""
        return self.num_classes + self.background

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The loss in float32, whatever the type of the logits.

        Args:
            logits: (S, D).
            classes: (S,) integers in 0..K-1, or K for background.

        Returns:
            A scalar whose average over processes is the mean over the samples of all of them;
            zero, with a zero gradient, if there is none.
        """
        raise NotImplementedError

    def normalizer(self, classes: Tensor) -> Tensor:
        """What the loss of (S,) labels is a mean over: their number, or the sum of their weights.

        With it the losses of parts add up to a batch's, for gradient accumulation.

        Raises:
            ValueError: they do not add up.
        """
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, D) logits to (S, K) probabilities, or (S, K + 1) with the background's."""
        return F.softmax(logits, dim=-1)


class SampleMeanLoss(ClassLoss):
    """The mean, or the weighted mean, of what a subclass says of each sample."""

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) float32 logits and (S,) labels to (S,) losses."""
        raise NotImplementedError

    def sample_weights(self) -> Tensor | None:
        """How much a sample of each class counts, (D,); None for 1."""
        return None

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        losses = self.sample_losses(logits.float(), classes)
        weights = self.sample_weights()
        if weights is not None:
            losses = losses * weights[classes]
        return losses.sum() / mean_over_processes(self.normalizer(classes))

    def normalizer(self, classes: Tensor) -> Tensor:
        return total_weight(classes, self.sample_weights(), NO_LABEL)


def register_class_loss(*tasks: LossTask) -> Callable:
    """Register the decorated builder, ``build(cfg, task) -> ClassLoss``, for some tasks."""

    def register(build: Callable) -> Callable:
        build.tasks = tasks
        CLASS_LOSS_REGISTRY.register(build)
        return build

    return register


def class_loss_names(task: LossTask) -> list[str]:
    """The losses that are defined for a task."""
    return sorted(name for name, build in CLASS_LOSS_REGISTRY if task in build.tasks)


def build_class_loss(cfg: CfgNode, name: str, task: LossTask) -> ClassLoss:
    """The class loss of that name.

    Args:
        cfg: a complete config.
        name: the value of ``task.loss_key``.
        task: one of IMAGES, PIXELS and BOXES.

    Raises:
        ValueError: no loss has that name, or it is not defined for the task.
    """
    known = class_loss_names(task)
    if name not in known:
        where = ""
        if name in CLASS_LOSS_REGISTRY:
            tasks = CLASS_LOSS_REGISTRY.get(name).tasks
            where = f", which is defined for {' and '.join(t.samples for t in tasks)} alone"
        raise ValueError(f"{task.loss_key} must be one of {', '.join(known)}, got {name!r}{where}")
    return CLASS_LOSS_REGISTRY.get(name)(cfg, task)


def check_cosine(key: str, class_loss: ClassLoss) -> None:
    """Refuse a loss that a cosine classifier cannot start with.

    Args:
        key: of the config, that asks for a cosine classifier.
        class_loss: the loss.

    Raises:
        ValueError: the loss starts from a bias, which a cosine classifier has not.
    """
    if class_loss.initial_bias:
        raise ValueError(
            f"{key} cosine has no bias, and {type(class_loss).__name__} has to start from one: "
            "set it to linear, or take a loss of a softmax"
        )


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
