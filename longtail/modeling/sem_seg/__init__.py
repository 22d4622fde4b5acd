"""Semantic segmentation heads with detectron2's interface."""

from .base import SemSegHead
from .deeplabv3plus import SeparableDeepLabV3PlusHead
from .fcn import FCNHead

__all__ = ["FCNHead", "SemSegHead", "SeparableDeepLabV3PlusHead"]
