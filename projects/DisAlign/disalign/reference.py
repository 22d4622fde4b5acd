"""The reference distribution of a training set, for all tasks.

Shape alphabet:
    K: classes (foreground classes in detection)
    S: samples: RoIs or images
"""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from longtail.data.statistics.class_stats import ClassStats, get_class_stats
from longtail.losses.cross_entropy import mean_over_processes

from .functional import alignment_loss, generalized_reweight

# What classes occur in: a field of ClassStats, and how a data set without it is described.
_COUNTS = {
    "image_count": "images",
    "pixel_count": "label maps",
    "instance_count": "annotated instances",
}


def class_weights(cfg: CfgNode, counted: str, num_classes: int) -> tuple[Tensor, ClassStats | None]:
    """The weights of Eq. 11 with MODEL.DISALIGN.RHO, from what DATASETS.TRAIN has of each class.

    Args:
        cfg: full config. Without training sets, as in inference, all weights are 1.
        counted: ``"image_count"``, ``"pixel_count"`` or ``"instance_count"``.
        num_classes: K.

    Returns:
        (K,) float32 weights, and the statistics that they are of (None without training sets).

    Raises:
        ValueError: the training sets have no such counts or another number of classes, or a class
            does not occur and MODEL.DISALIGN.CLAMP_ZERO_COUNTS is off.
    """
    names, options = cfg.DATASETS.TRAIN, cfg.MODEL.DISALIGN
    if not names:
        return torch.ones(num_classes), None
    stats = get_class_stats(names)
    counts = getattr(stats, counted)
    if counts is None:
        raise ValueError(
            f"{', '.join(names)} has no {_COUNTS[counted]}: DisAlign weighs the classes by them"
        )
    weights = generalized_reweight(
        torch.from_numpy(counts),
        options.RHO,
        class_names=stats.class_names,
        clamp_zero_counts=options.CLAMP_ZERO_COUNTS,
    )
    return weights.float(), stats


def checked_class_weights(weights: Tensor, num_classes: int, key: str) -> Tensor:
    """(K,) weights as float32, if they are as many as there are classes.

    Args:
        weights: w_c of Eq. 11.
        num_classes: K.
        key: the config's, for the message.

    Raises:
        ValueError: they are not.
    """
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if weights.shape != (num_classes,):
        raise ValueError(
            f"class_weights must have shape ({num_classes},), got {tuple(weights.shape)}: {key} "
            "and the training set do not belong together"
        )
    return weights


def calibration_options(cfg: CfgNode) -> dict[str, Any]:
    """What MODEL.DISALIGN says about :class:`AdaptiveCalibration` and the mean of the loss."""
    options = cfg.MODEL.DISALIGN
    return {
        "weighted_mean": options.WEIGHTED_MEAN,
        "magnitude": options.MAGNITUDE,
        "margin": options.MARGIN,
        "confidence": options.CONFIDENCE,
        "confidence_bias": options.CONFIDENCE_BIAS,
    }


def mean_alignment_loss(
    logits: Tensor, classes: Tensor, weights: Tensor, weighted_mean: bool
) -> Tensor:
    """:func:`alignment_loss` as a mean over the samples of all processes.

    The gradients' mean over processes is then that of one process with all samples.

    Args:
        logits: (S, K) calibrated scores.
        classes: (S,) integers in 0..K-1.
        weights: (K,) weights.
        weighted_mean: see :func:`alignment_loss`.
    """
    loss = alignment_loss(logits, classes, weights, weighted_mean=weighted_mean)
    total = mean_normalizer(classes, weights, weighted_mean)
    return loss * (total / mean_over_processes(total))


def mean_normalizer(classes: Tensor, weights: Tensor, weighted_mean: bool) -> Tensor:
    """What :func:`mean_alignment_loss` divides by: the sum of the weights, or the samples."""
    of_samples = weights[classes]
    return (of_samples if weighted_mean else torch.ones_like(of_samples)).sum()
