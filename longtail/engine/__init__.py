# SPDX-License-Identifier: Apache-2.0
"""Training, testing and launching: what brings data, models and evaluation together."""

from longtail.engine.inference.tta import SemanticSegmentorWithTTA
from longtail.engine.training.trainer import Trainer

from .launch import launch_training

__all__ = ["SemanticSegmentorWithTTA", "Trainer", "launch_training"]
