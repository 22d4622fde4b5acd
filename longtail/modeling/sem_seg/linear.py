# SPDX-License-Identifier: Apache-2.0
"""The linear head: what frozen features are worth by themselves.

Shape alphabet: see :mod:`.sem_seg.base`.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .base import SemSegHead
from .blocks import resize
from .fcn import shared_arguments


@SEM_SEG_HEADS_REGISTRY.register()
class LinearHead(SemSegHead):
    """The levels side by side, normalised, and the 1x1 classifier: linear segmentation of DINOv2.

    Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024,
    Section 7.4.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: tuple[str, ...],
        norm: str,
        **shared: object,
    ) -> None:
        """Build the normalisation of the levels.

        Args:
            input_shape: the backbone's maps.
            in_features: names of the levels, one or more; others are resized to the first's size.
            norm: detectron2's name of a normalisation.
            shared: the arguments of :class:`~longtail.modeling.SemSegHead`.
        """
        channels = sum(input_shape[level].channels for level in in_features)
        stride = input_shape[in_features[0]].stride
        super().__init__(channels=channels, common_stride=stride, **shared)
        self.in_features = in_features
        self.norm = get_norm(norm, channels) or nn.Identity()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD; CONVS_DIM is not read, the levels say how many channels."""
        shared = shared_arguments(cfg, input_shape)
        del shared["channels"]
        in_features = tuple(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
        return {"input_shape": input_shape, "in_features": in_features, **shared}

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The levels to (N, C, H, W), C the sum of their channels."""
        first, *others = (features[level] for level in self.in_features)
        resized = [resize(x, size=first.shape[2:]) for x in others]
        return self.norm(torch.cat([first, *resized], dim=1))
