# SPDX-License-Identifier: Apache-2.0
"""Backbones with detectron2's interface."""

from .cifar_resnet import CifarResNet
from .classification_backbone import TimmClassificationBackbone
from .plain_backbone import TimmPlainBackbone
from .timm_backbone import TimmBackbone
from .timm_fpn import build_timm_fpn_backbone

__all__ = [
    "CifarResNet",
    "TimmBackbone",
    "TimmClassificationBackbone",
    "TimmPlainBackbone",
    "build_timm_fpn_backbone",
]
