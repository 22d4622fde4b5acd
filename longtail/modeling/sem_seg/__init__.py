# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation heads with detectron2's interface."""

from .base import SemSegHead
from .deeplabv3plus import SeparableDeepLabV3PlusHead
from .fcn import FCNHead
from .linear import LinearHead
from .ocr import OCRHead
from .psp import PSPHead
from .segmentor import LongTailSemanticSegmentor
from .uper import UPerHead

__all__ = [
    "FCNHead",
    "LinearHead",
    "LongTailSemanticSegmentor",
    "OCRHead",
    "PSPHead",
    "SemSegHead",
    "SeparableDeepLabV3PlusHead",
    "UPerHead",
]
