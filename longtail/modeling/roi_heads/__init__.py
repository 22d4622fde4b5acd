# SPDX-License-Identifier: Apache-2.0
"""ROI heads whose box classifier and its loss can be chosen."""

from .fast_rcnn import LongTailFastRCNNOutputLayers, check_box_classifier
from .frozen import FrozenCascadeROIHeads, FrozenHeads, FrozenROIHeads, RoIs
from .mask_head import NormedConv2d, NormedMaskHead
from .roi_heads import LongTailCascadeROIHeads, LongTailROIHeads
from .second_stage import (
    RetrainedCascadeROIHeads,
    RetrainedFastRCNNOutputLayers,
    RetrainedROIHeads,
    ScaledCascadeROIHeads,
    ScaledFastRCNNOutputLayers,
    ScaledROIHeads,
)

__all__ = [
    "FrozenCascadeROIHeads",
    "FrozenHeads",
    "FrozenROIHeads",
    "LongTailCascadeROIHeads",
    "LongTailFastRCNNOutputLayers",
    "LongTailROIHeads",
    "NormedConv2d",
    "NormedMaskHead",
    "RetrainedCascadeROIHeads",
    "RetrainedFastRCNNOutputLayers",
    "RetrainedROIHeads",
    "RoIs",
    "ScaledCascadeROIHeads",
    "ScaledFastRCNNOutputLayers",
    "ScaledROIHeads",
    "check_box_classifier",
]
