"""Backbones, heads and losses: baselines, with no method inside."""

from .backbone import TimmBackbone, TimmPlainBackbone
from .cosine import CosineLinear
from .roi_heads import (
    LongTailCascadeROIHeads,
    LongTailFastRCNNOutputLayers,
    LongTailROIHeads,
)
from .sem_seg import (
    FCNHead,
    OCRHead,
    PSPHead,
    SemSegHead,
    SeparableDeepLabV3PlusHead,
    UPerHead,
)

__all__ = [
    "CosineLinear",
    "FCNHead",
    "LongTailCascadeROIHeads",
    "LongTailFastRCNNOutputLayers",
    "LongTailROIHeads",
    "OCRHead",
    "PSPHead",
    "SemSegHead",
    "SeparableDeepLabV3PlusHead",
    "TimmBackbone",
    "TimmPlainBackbone",
    "UPerHead",
]
