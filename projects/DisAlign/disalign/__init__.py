# SPDX-License-Identifier: Apache-2.0
"""Distribution Alignment (DisAlign): calibrate a frozen model in a second stage."""

from .calibration import AdaptiveCalibration
from .config import add_disalign_config
from .fast_rcnn import DisAlignFastRCNNOutputLayers
from .functional import alignment_loss, calibrate_logits, generalized_reweight
from .image_classifier import DisAlignImageClassifier
from .rcnn import DisAlignRCNN
from .roi_heads import DisAlignCascadeROIHeads, DisAlignROIHeads, RoIs
from .sem_seg import DisAlignSemSegHead

__all__ = [
    "AdaptiveCalibration",
    "DisAlignCascadeROIHeads",
    "DisAlignFastRCNNOutputLayers",
    "DisAlignImageClassifier",
    "DisAlignRCNN",
    "DisAlignROIHeads",
    "DisAlignSemSegHead",
    "RoIs",
    "add_disalign_config",
    "alignment_loss",
    "calibrate_logits",
    "generalized_reweight",
]
