# SPDX-License-Identifier: Apache-2.0
"""Images of one class each: the first stage, and second stages on its frozen features."""

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
