# SPDX-License-Identifier: Apache-2.0
"""Image classification: the first stage, and second stages on its frozen features."""

from .image_classifier import ImageClassifier
from .second_stage import (
    RetrainedImageClassifier,
    ScaledImageClassifier,
    SecondStageImageClassifier,
)

__all__ = [
    "ImageClassifier",
    "RetrainedImageClassifier",
    "ScaledImageClassifier",
    "SecondStageImageClassifier",
]
