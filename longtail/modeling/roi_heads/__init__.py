# SPDX-License-Identifier: Apache-2.0
"""ROI heads whose box classifier and its loss can be chosen."""

from .fast_rcnn import LongTailFastRCNNOutputLayers, check_box_classifier
from .mask_head import NormedConv2d, NormedMaskHead
from .roi_heads import LongTailCascadeROIHeads, LongTailROIHeads

__all__ = [
    "LongTailCascadeROIHeads",
    "LongTailFastRCNNOutputLayers",
    "LongTailROIHeads",
    "NormedConv2d",
    "NormedMaskHead",
    "check_box_classifier",
]
