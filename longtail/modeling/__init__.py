"""Backbones, semantic heads and losses: baselines, with no method inside."""

from .backbone import TimmBackbone
from .sem_seg import FCNHead, SemSegHead, SeparableDeepLabV3PlusHead

__all__ = ["FCNHead", "SemSegHead", "SeparableDeepLabV3PlusHead", "TimmBackbone"]
