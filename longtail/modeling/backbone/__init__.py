"""Backbones with detectron2's interface."""

from .timm_backbone import TimmBackbone
from .timm_fpn import build_timm_fpn_backbone

__all__ = ["TimmBackbone", "build_timm_fpn_backbone"]
