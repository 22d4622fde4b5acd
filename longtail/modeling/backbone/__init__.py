"""Backbones with detectron2's interface."""

from .timm_backbone import TimmBackbone

__all__ = ["TimmBackbone"]
