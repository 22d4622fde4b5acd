"""Training, testing and launching: what brings data, models and evaluation together."""

import longtail.engine.class_losses  # registers
import longtail.engine.pixel_losses  # noqa: F401  (registers)

from .launch import launch_training
from .trainer import Trainer
from .tta import SemanticSegmentorWithTTA

__all__ = ["SemanticSegmentorWithTTA", "Trainer", "launch_training"]
