"""Backbones with detectron2's interface."""

from .plain_backbone import TimmPlainBackbone
from .timm_backbone import TimmBackbone
from .timm_fpn import build_timm_fpn_backbone

__all__ = ["TimmBackbone", "TimmPlainBackbone", "build_timm_fpn_backbone"]
