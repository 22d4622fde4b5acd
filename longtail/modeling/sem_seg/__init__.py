# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation heads with detectron2's interface."""

from .base import SemSegHead
from .deeplabv3plus import SeparableDeepLabV3PlusHead
from .fcn import FCNHead
from .linear import LinearHead
from .mask2former import Mask2FormerHead
from .ocr import OCRHead
from .psp import PSPHead
from .second_stage import RetrainedSemSegHead, ScaledSemSegHead, SecondStageSemSegHead
from .segmentor import LongTailSemanticSegmentor
from .uper import UPerHead

__all__ = [
    "FCNHead",
    "LinearHead",
    "LongTailSemanticSegmentor",
    "Mask2FormerHead",
    "OCRHead",
    "PSPHead",
    "RetrainedSemSegHead",
    "ScaledSemSegHead",
    "SecondStageSemSegHead",
    "SemSegHead",
    "SeparableDeepLabV3PlusHead",
    "UPerHead",
]
