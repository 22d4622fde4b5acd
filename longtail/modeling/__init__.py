# SPDX-License-Identifier: Apache-2.0
"""Backbones, classifiers and heads: baselines, with no method inside."""

from .backbone import TimmBackbone, TimmClassificationBackbone, TimmPlainBackbone
from .classification import (
    ImageClassifier,
    RetrainedImageClassifier,
    ScaledImageClassifier,
    SecondStageImageClassifier,
)
from .cosine import CosineLinear
from .roi_heads import (
    LongTailCascadeROIHeads,
    LongTailFastRCNNOutputLayers,
    LongTailROIHeads,
)
from .second_stage_rcnn import RetrainedRCNN, ScaledRCNN, SecondStageRCNN
from .sem_seg import (
    FCNHead,
    LinearHead,
    LongTailSemanticSegmentor,
    Mask2FormerHead,
    OCRHead,
    PSPHead,
    RetrainedSemSegHead,
    ScaledSemSegHead,
    SecondStageSemSegHead,
    SemSegHead,
    SeparableDeepLabV3PlusHead,
    UPerHead,
)

__all__ = [
    "CosineLinear",
    "FCNHead",
    "ImageClassifier",
    "LinearHead",
    "LongTailCascadeROIHeads",
    "LongTailFastRCNNOutputLayers",
    "LongTailROIHeads",
    "LongTailSemanticSegmentor",
    "Mask2FormerHead",
    "OCRHead",
    "PSPHead",
    "RetrainedImageClassifier",
    "RetrainedRCNN",
    "RetrainedSemSegHead",
    "ScaledImageClassifier",
    "ScaledRCNN",
    "ScaledSemSegHead",
    "SecondStageImageClassifier",
    "SecondStageRCNN",
    "SecondStageSemSegHead",
    "SemSegHead",
    "SeparableDeepLabV3PlusHead",
    "TimmBackbone",
    "TimmClassificationBackbone",
    "TimmPlainBackbone",
    "UPerHead",
]
