# SPDX-License-Identifier: Apache-2.0
"""A feature pyramid network over any timm model."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from .timm_backbone import LAST_LEVEL, TimmBackbone

FUSE_TYPES = ("sum", "avg")


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """detectron2's FPN over :class:`~longtail.modeling.TimmBackbone`.

    It is what ``build_resnet_fpn_backbone`` is over a ResNet.

    Args:
        cfg: ``MODEL.TIMM`` describes the timm model, ``MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM,
            FUSE_TYPE}`` the pyramid.
        input_shape: of the images; not used.

    Returns:
        A backbone with the maps ``p2`` .. ``p5`` of strides 4 .. 32 (fewer with fewer
        IN_FEATURES), each (N, OUT_CHANNELS, H / stride, W / stride), and ``p6`` of stride 64: every
        second cell of ``p5``. H and W are multiples of its ``size_divisibility``, 32.

    Raises:
        ValueError: IN_FEATURES are not consecutive levels of the timm model that end at stride
            32, FUSE_TYPE is unknown, or ``TimmBackbone`` refuses its options.
    """
    bottom_up = TimmBackbone(cfg, input_shape)
    in_features = list(cfg.MODEL.FPN.IN_FEATURES)
    levels = {name: shape.stride for name, shape in bottom_up.output_shape().items()}
    strides = [levels.get(name) for name in in_features]
    # p6 is made of p5, which therefore has to exist.
    last = 2**LAST_LEVEL
    expected = [last >> i for i in reversed(range(len(in_features)))]
    if not in_features or strides != expected:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES must be consecutive levels of MODEL.TIMM that end at stride "
            f"{last}, got {in_features}; {cfg.MODEL.TIMM.NAME} has the strides {levels}"
        )
    if cfg.MODEL.FPN.FUSE_TYPE not in FUSE_TYPES:
        raise ValueError(
            f"MODEL.FPN.FUSE_TYPE must be one of {list(FUSE_TYPES)}, "
            f"got {cfg.MODEL.FPN.FUSE_TYPE!r}"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
