# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN's mask head with a normalised predictor, as published with the Seesaw loss.

Shape alphabet:
    R: RoIs
    C: channels of the predictor's input
    K: classes, or 1 for masks that do not depend on the class
    H, W: height and width of maps
"""

import math

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import Tensor, nn

# Added to lengths, as in the authors' release.
EPS = 1e-6


class NormedConv2d(nn.Conv2d):
    r"""A 1x1 convolution of directions (Wang et al. 2021, NormedConv2d of mmdetection).

    .. math::

        z_j = \tau \frac{w_j \cdot x}{(\|w_j\| + \epsilon)(\|x\| + \epsilon)} + b_j

    at every pixel, with a fixed temperature tau and epsilon = 1e-6.
    """

    def __init__(self, in_channels: int, out_channels: int, temperature: float) -> None:
        """Draw Kaiming's normal weights by the number of outputs, and biases of 0.

        Args:
            in_channels: C.
            out_channels: K.
            temperature: tau, finite and > 0.

        Raises:
            ValueError: another temperature.
        """
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.TEMPERATURE must be finite and > 0, got {temperature}"
            )
        super().__init__(in_channels, out_channels, kernel_size=1)
        self.temperature = temperature
        # Not detectron2's 0.001: the shorter a weight, the faster its direction turns.
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, H, W) features to (R, K, H, W) logits, in the weights' type."""
        # float16 would lose the lengths' epsilon, bfloat16 the angles.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight.dtype)
            x = x * (self.temperature / (x.norm(dim=1, keepdim=True) + EPS))
            weight = self.weight / (self.weight.norm(dim=1, keepdim=True) + EPS)
            return self._conv_forward(x, weight, self.bias)


@ROI_MASK_HEAD_REGISTRY.register()
class NormedMaskHead(MaskRCNNConvUpsampleHead):
    """detectron2's MaskRCNNConvUpsampleHead with a :class:`.NormedConv2d` as its predictor."""

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, temperature: float = 20.0, **kwargs: object
    ) -> None:
        """Exchange the predictor.

        Args:
            input_shape: of the RoIs' features.
            temperature: see :class:`.NormedConv2d`.
            kwargs: as for MaskRCNNConvUpsampleHead.
        """
        super().__init__(input_shape, **kwargs)
        own = self.predictor
        # In the same place: the head runs its modules in their order.
        self.predictor = NormedConv2d(own.in_channels, own.out_channels, temperature)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read detectron2's arguments and MODEL.ROI_MASK_HEAD.TEMPERATURE."""
        temperature = cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE
        return {**super().from_config(cfg, input_shape), "temperature": temperature}
