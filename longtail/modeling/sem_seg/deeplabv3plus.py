# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3+ with depthwise-separable atrous convolutions.

detectron2's DeepLabV3PlusHead has dense atrous convolutions in the papers' setting and another
decoder; this is the head that the papers' metrics were measured with.

Shape alphabet: see :mod:`.sem_seg.base`.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .base import SemSegHead
from .blocks import conv_norm_relu, pool_and_resize, resize, separable_conv
from .fcn import shared_arguments


@SEM_SEG_HEADS_REGISTRY.register()
class SeparableDeepLabV3PlusHead(SemSegHead):
    """Atrous spatial pyramid pooling on a high level, refined with a low level."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: tuple[str, str],
        channels: int,
        low_level_channels: int,
        dilations: tuple[int, ...],
        norm: str,
        **shared: object,
    ) -> None:
        """Build the branches on the high level and the refinement by the low one.

        Args:
            input_shape: the backbone's maps.
            in_features: names of the low and of the high level.
            channels: C, of every branch and of the result.
            low_level_channels: what the low level is reduced to.
            dilations: of the separable 3x3 branches; a 1x1 branch and an image pool are added.
            norm: detectron2's name of a normalisation.
            shared: the arguments of :class:`~longtail.modeling.SemSegHead`.
        """
        low, high = (input_shape[level] for level in in_features)
        super().__init__(channels=channels, common_stride=low.stride, **shared)
        self.low_level, self.high_level = in_features
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv_norm_relu(high.channels, channels, 1, norm=norm)
        )
        self.branches = nn.ModuleList(
            [
                conv_norm_relu(high.channels, channels, 1, norm=norm),
                *(
                    separable_conv(high.channels, channels, norm=norm, dilation=d)
                    for d in dilations
                ),
            ]
        )
        self.bottleneck = conv_norm_relu(channels * (len(dilations) + 2), channels, 3, norm=norm)
        self.reduce_low = conv_norm_relu(low.channels, low_level_channels, 1, norm=norm)
        self.decoder = nn.Sequential(
            separable_conv(channels + low_level_channels, channels, norm=norm),
            separable_conv(channels, channels, norm=norm),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD.

        Raises:
            ValueError: IN_FEATURES or PROJECT_CHANNELS is of another length.
        """
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.IN_FEATURES) != 2 or len(head.PROJECT_CHANNELS) != 1:
            raise ValueError(
                f"{cls.__name__} reads two levels, low and high, with one PROJECT_CHANNELS for the "
                f"low one: got IN_FEATURES {list(head.IN_FEATURES)} and PROJECT_CHANNELS "
                f"{list(head.PROJECT_CHANNELS)} in MODEL.SEM_SEG_HEAD"
            )
        return {
            "input_shape": input_shape,
            "in_features": tuple(head.IN_FEATURES),
            "low_level_channels": head.PROJECT_CHANNELS[0],
            "dilations": tuple(head.ASPP_DILATIONS),
            **shared_arguments(cfg, input_shape),
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The low and the high level to (N, C, H, W) at the low level's size."""
        low, x = features[self.low_level], features[self.high_level]
        pooled = pool_and_resize(x, 1, self.image_pool[1])
        x = self.bottleneck(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))
        x = resize(x, size=low.shape[2:])
        return self.decoder(torch.cat([x, self.reduce_low(low)], dim=1))
