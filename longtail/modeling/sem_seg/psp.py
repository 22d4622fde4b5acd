# SPDX-License-Identifier: Apache-2.0
"""PSPNet's head: pyramid pooling on one level.

Shape alphabet: see :mod:`.sem_seg.base`.
"""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor

from .base import SemSegHead
from .blocks import PyramidPooling
from .fcn import shared_arguments


@SEM_SEG_HEADS_REGISTRY.register()
class PSPHead(SemSegHead):
    """Average pools of one level, joined to it."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_feature: str,
        channels: int,
        pool_scales: tuple[int, ...],
        norm: str,
        **shared: object,
    ) -> None:
        """Put pyramid pooling on a level.

        Args:
            input_shape: the backbone's maps.
            in_feature: name of the level to read.
            channels: C, of every pool and of the result.
            pool_scales: see :class:`.PyramidPooling`.
            norm: detectron2's name of a normalisation.
            shared: the arguments of :class:`~longtail.modeling.SemSegHead`.
        """
        shape = input_shape[in_feature]
        super().__init__(channels=channels, common_stride=shape.stride, **shared)
        self.in_feature = in_feature
        self.pyramid_pooling = PyramidPooling(shape.channels, channels, pool_scales, norm=norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD; the last of IN_FEATURES is the level."""
        # First, because it checks the levels.
        shared = shared_arguments(cfg, input_shape)
        return {
            "input_shape": input_shape,
            "in_feature": cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES[-1],
            "pool_scales": tuple(cfg.MODEL.SEM_SEG_HEAD.POOL_SCALES),
            **shared,
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The named level to (N, C, H, W)."""
        return self.pyramid_pooling(features[self.in_feature])
