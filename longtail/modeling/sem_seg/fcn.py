# SPDX-License-Identifier: Apache-2.0
"""The fully convolutional head, as main and as auxiliary head.

Shape alphabet: see :mod:`.sem_seg.base`.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.losses import PIXELS, build_loss

from .base import SemSegHead
from .blocks import check_positive, conv_norm_relu

# detectron2's names of normalisations; "" for none, with biases instead.
NORMS = ("BN", "SyncBN", "FrozenBN", "GN", "")


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(SemSegHead):
    """3x3 convolutions on one level; with ``concat_input`` that level is joined to their result."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_feature: str,
        channels: int,
        norm: str,
        num_convs: int = 2,
        concat_input: bool = True,
        **shared: object,
    ) -> None:
        """Build the convolutions on a level.

        Args:
            input_shape: the backbone's maps.
            in_feature: name of the level to read.
            channels: C.
            norm: detectron2's name of a normalisation.
            num_convs: convolutions before the joining, >= 1.
            concat_input: join the input to the result, then one more convolution.
            shared: the arguments of :class:`~longtail.modeling.SemSegHead`.
        """
        shape = input_shape[in_feature]
        super().__init__(channels=channels, common_stride=shape.stride, **shared)
        self.in_feature = in_feature
        widths = [shape.channels] + [channels] * num_convs
        self.convs = nn.Sequential(
            *(conv_norm_relu(i, o, 3, norm=norm) for i, o in pairwise(widths))
        )
        self.join = (
            conv_norm_relu(shape.channels + channels, channels, 3, norm=norm)
            if concat_input
            else None
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD; the last of IN_FEATURES is the level."""
        shared = shared_arguments(cfg, input_shape)
        in_feature = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES[-1]
        return {"input_shape": input_shape, "in_feature": in_feature, **shared}

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The named level to (N, C, H, W)."""
        x = features[self.in_feature]
        y = self.convs(x)
        return y if self.join is None else self.join(torch.cat([x, y], dim=1))


def shared_arguments(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
    """The arguments that every head's ``from_config`` takes from the config in the same way.

    Raises:
        ValueError: no level, or one that the backbone does not return; an unknown normalisation, or
            a width that is not positive.
    """
    head, auxiliary = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.SEM_SEG_HEAD.AUXILIARY
    check_levels(head.IN_FEATURES, input_shape)
    if head.NORM not in NORMS:
        raise ValueError(f"MODEL.SEM_SEG_HEAD.NORM must be one of {NORMS}, got {head.NORM!r}")
    check_positive("MODEL.SEM_SEG_HEAD.CONVS_DIM", [head.CONVS_DIM])
    if auxiliary.LOSS_WEIGHT:
        check_levels([auxiliary.IN_FEATURE], input_shape)
    common = {
        "num_classes": head.NUM_CLASSES,
        "norm": head.NORM,
        "dropout": head.DROPOUT,
        "ignore_value": head.IGNORE_VALUE,
        "pixel_loss": build_loss(cfg, PIXELS),
    }
    auxiliary_head = None
    if auxiliary.LOSS_WEIGHT:
        check_positive("MODEL.SEM_SEG_HEAD.AUXILIARY.CONVS_DIM", [auxiliary.CONVS_DIM])
        auxiliary_head = FCNHead(
            input_shape=input_shape,
            in_feature=auxiliary.IN_FEATURE,
            channels=auxiliary.CONVS_DIM,
            num_convs=1,
            concat_input=False,
            loss_weight=auxiliary.LOSS_WEIGHT,
            loss_name="loss_auxiliary",
            **common,
        )
    return {
        **common,
        "channels": head.CONVS_DIM,
        "loss_weight": head.LOSS_WEIGHT,
        "auxiliary": auxiliary_head,
    }


def check_levels(levels: Sequence[str], input_shape: dict[str, ShapeSpec]) -> None:
    """Refuse levels that a head cannot read.

    Args:
        levels: MODEL.SEM_SEG_HEAD.IN_FEATURES, or what else names levels of the backbone.
        input_shape: the backbone's maps.

    Raises:
        ValueError: no level, or one that the backbone does not return.
    """
    if not levels:
        raise ValueError(
            "MODEL.SEM_SEG_HEAD.IN_FEATURES is empty: name levels of the backbone, some of "
            f"{sorted(input_shape)}"
        )
    for level in levels:
        if level not in input_shape:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD reads the level {level!r}, but the backbone returns "
                f"{sorted(input_shape)}: add it to the backbone's OUT_FEATURES"
            )


def fine_to_coarse(cfg: CfgNode, input_shape: dict[str, ShapeSpec], least: int) -> tuple[str, ...]:
    """``IN_FEATURES`` of a head that reads several levels.

    Args:
        cfg: read for MODEL.SEM_SEG_HEAD.IN_FEATURES.
        input_shape: the backbone's maps; it has these levels.
        least: levels that there must be.

    Raises:
        ValueError: there are fewer, or their strides fall.
    """
    levels = tuple(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
    strides = [input_shape[level].stride for level in levels]
    if len(strides) < least or strides != sorted(strides):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES must be {least} or more levels from fine to coarse: "
            f"got {list(levels)} with strides {strides}"
        )
    return levels
