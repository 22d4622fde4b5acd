# SPDX-License-Identifier: Apache-2.0
"""UPerNet's head: a feature pyramid whose top is a pyramid pooling module.

Shape alphabet: see :mod:`.sem_seg.base`.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .base import SemSegHead
from .blocks import PyramidPooling, conv_norm_relu, resize
from .fcn import fine_to_coarse, shared_arguments


@SEM_SEG_HEADS_REGISTRY.register()
class UPerHead(SemSegHead):
    """Levels from fine to coarse, each enriched by the coarser ones, joined at the finest."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: tuple[str, ...],
        channels: int,
        pool_scales: tuple[int, ...],
        norm: str,
        **shared: object,
    ) -> None:
        """Build pyramid pooling on the coarsest level and a path from it to the finest.

        Args:
            input_shape: the backbone's maps.
            in_features: names of the levels, two or more, from fine to coarse.
            channels: C, of every level's result and of the whole.
            pool_scales: see :class:`.PyramidPooling`, on the coarsest level.
            norm: detectron2's name of a normalisation.
            shared: the arguments of :class:`~longtail.modeling.SemSegHead`.
        """
        *finer, coarsest = (input_shape[level] for level in in_features)
        super().__init__(channels=channels, common_stride=finer[0].stride, **shared)
        self.in_features = in_features
        self.pyramid_pooling = PyramidPooling(coarsest.channels, channels, pool_scales, norm=norm)
        self.laterals = nn.ModuleList(
            conv_norm_relu(level.channels, channels, 1, norm=norm) for level in finer
        )
        self.outputs = nn.ModuleList(
            conv_norm_relu(channels, channels, 3, norm=norm) for _ in finer
        )
        self.fusion = conv_norm_relu(len(in_features) * channels, channels, 3, norm=norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD; IN_FEATURES are ordered from fine to coarse."""
        # First, because it checks the levels.
        shared = shared_arguments(cfg, input_shape)
        return {
            "input_shape": input_shape,
            "in_features": fine_to_coarse(cfg, input_shape, least=2),
            "pool_scales": tuple(cfg.MODEL.SEM_SEG_HEAD.POOL_SCALES),
            **shared,
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The levels to (N, C, H, W) at the size of the finest."""
        *finer, coarsest = (features[level] for level in self.in_features)
        top = self.pyramid_pooling(coarsest)
        results, above = [top], top
        for x, lateral, output in zip(
            reversed(finer), reversed(self.laterals), reversed(self.outputs), strict=True
        ):
            above = lateral(x) + resize(above, size=x.shape[2:])
            results.append(output(above))
        # The coarsest level does not have a convolution of its own: pyramid pooling ends with one.
        size = finer[0].shape[2:]
        results = [resize(result, size=size) for result in reversed(results)]
        return self.fusion(torch.cat(results, dim=1))
