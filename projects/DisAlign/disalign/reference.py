# SPDX-License-Identifier: Apache-2.0
"""The reference distribution of a training set, for all tasks.

Shape alphabet:
    K: classes (foreground classes in detection)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from longtail.data.statistics.class_stats import ClassStats, get_class_stats

from .functional import generalized_reweight

# Where alpha and beta start, MODEL.DISALIGN.INIT.
STARTS = ("identity", "prior")
# What classes occur in: a field of ClassStats, and how a data set without it is described.
_COUNTS = {
    "image_count": "images",
    "pixel_count": "label maps",
    "instance_count": "annotated instances",
}


def calibration_arguments(
    cfg: CfgNode,
    counted: str,
    num_classes: int,
    class_groups: Callable[[ClassStats], Mapping[str, Sequence[int]]],
) -> dict[str, Any]:
    """The arguments that every calibrated classifier takes from a config in the same way.

    Args:
        cfg: full config. Without training sets, as in inference, all weights are 1, and there are
            no groups.
        counted: what Eq. 11 counts, ``"image_count"``, ``"pixel_count"`` or ``"instance_count"``
            of DATASETS.TRAIN.
        num_classes: K.
        class_groups: from class statistics to class indices by frequency group.

    Returns:
        ``class_weights``, (K,) float32 weights of Eq. 11 with MODEL.DISALIGN.RHO;
        ``class_groups``; ``weighted_mean``; and ``calibration``, the options of
        :class:`.calibration.AdaptiveCalibration`.

    Raises:
        ValueError: the training sets do not have such counts, or a class does not occur and
            MODEL.DISALIGN.CLAMP_ZERO_COUNTS is off; or MODEL.DISALIGN.INIT is unknown.
    """
    weights, groups = torch.ones(num_classes), {}
    if cfg.DATASETS.TRAIN:
        stats = get_class_stats(cfg.DATASETS.TRAIN)
        weights, groups = _class_weights(cfg, stats, counted), class_groups(stats)
    options = cfg.MODEL.DISALIGN
    if options.INIT not in STARTS:
        raise ValueError(
            f"MODEL.DISALIGN.INIT must be one of {', '.join(STARTS)}, got {options.INIT!r}"
        )
    return {
        "class_weights": weights,
        "class_groups": groups,
        "weighted_mean": options.WEIGHTED_MEAN,
        "calibration": {
            "magnitude": options.MAGNITUDE,
            "margin": options.MARGIN,
            "confidence": options.CONFIDENCE,
            "confidence_bias": options.CONFIDENCE_BIAS,
            "form": options.FORM,
            "confidence_branch": options.CONFIDENCE_BRANCH,
            "first_beta": weights.log() if options.INIT == "prior" else None,
        },
    }


def _class_weights(cfg: CfgNode, stats: ClassStats, counted: str) -> Tensor:
    counts = getattr(stats, counted)
    if counts is None:
        raise ValueError(
            f"{', '.join(cfg.DATASETS.TRAIN)} has no {_COUNTS[counted]}: DisAlign weighs the "
            "classes by them"
        )
    weights = generalized_reweight(
        torch.from_numpy(counts),
        cfg.MODEL.DISALIGN.RHO,
        class_names=stats.class_names,
        clamp_zero_counts=cfg.MODEL.DISALIGN.CLAMP_ZERO_COUNTS,
    )
    return weights.float()
