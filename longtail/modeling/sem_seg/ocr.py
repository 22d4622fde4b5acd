# SPDX-License-Identifier: Apache-2.0
"""OCRNet's head: a coarse segmentation gives one feature a class, which pixels attend to.

Shape alphabet:
    A: channels of the attention; the others are those of :mod:`.sem_seg.base`
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .base import PixelClassifier, SemSegHead
from .blocks import check_positive, conv_norm_relu, resize
from .fcn import fine_to_coarse, shared_arguments


@SEM_SEG_HEADS_REGISTRY.register()
class OCRHead(SemSegHead):
    """A cascade of two stages: a 1x1 FCN, and object contexts made of its prediction."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        in_features: tuple[str, ...],
        channels: int,
        attention_channels: int,
        coarse_loss_weight: float,
        norm: str,
        num_classes: int,
        **shared: object,
    ) -> None:
        """Build the coarse stage and the attention of pixels to object regions.

        Args:
            input_shape: the backbone's maps.
            in_features: names of the levels that are joined at the size of the first.
            channels: C.
            attention_channels: A.
            coarse_loss_weight: factor of the first stage's loss, >= 0.
            norm: detectron2's name of a normalisation.
            num_classes: K.
            shared: the other arguments of :class:`~longtail.modeling.SemSegHead`.
        """
        stride = input_shape[in_features[0]].stride
        super().__init__(channels=channels, num_classes=num_classes, common_stride=stride, **shared)
        self.in_features = in_features
        self.stage_weights = {"loss_coarse": coarse_loss_weight}
        joined = sum(input_shape[level].channels for level in in_features)
        self.coarse_conv = conv_norm_relu(joined, joined, 1, norm=norm)
        self.coarse_predictor = PixelClassifier(joined, num_classes, dropout=0.0)
        self.reduce = conv_norm_relu(joined, channels, 3, norm=norm)
        self.query = nn.Sequential(
            conv_norm_relu(channels, attention_channels, 1, norm=norm),
            conv_norm_relu(attention_channels, attention_channels, 1, norm=norm),
        )
        self.key = nn.Sequential(
            conv_norm_relu(channels, attention_channels, 1, norm=norm),
            conv_norm_relu(attention_channels, attention_channels, 1, norm=norm),
        )
        self.value = conv_norm_relu(channels, attention_channels, 1, norm=norm)
        self.project = conv_norm_relu(attention_channels, channels, 1, norm=norm)
        self.fusion = conv_norm_relu(2 * channels, channels, 1, norm=norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read MODEL.SEM_SEG_HEAD.

        Raises:
            ValueError: OCR_CHANNELS is not positive, or the levels do not go from fine to coarse.
        """
        # First, because it checks the levels.
        shared = shared_arguments(cfg, input_shape)
        head = cfg.MODEL.SEM_SEG_HEAD
        check_positive("MODEL.SEM_SEG_HEAD.OCR_CHANNELS", [head.OCR_CHANNELS])
        return {
            "input_shape": input_shape,
            "in_features": fine_to_coarse(cfg, input_shape, least=1),
            "attention_channels": head.OCR_CHANNELS,
            "coarse_loss_weight": head.COARSE_LOSS_WEIGHT,
            **shared,
        }

    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The levels to (N, C, H, W) at the size of the first."""
        return self.stages(features)[0]

    def stages(self, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixel features, and the first stage's logits as ``loss_coarse``."""
        size = features[self.in_features[0]].shape[2:]
        x = torch.cat([resize(features[level], size=size) for level in self.in_features], dim=1)
        coarse = self.coarse_predictor(self.coarse_conv(x))
        return self._refine(self.reduce(x), coarse), {"loss_coarse": coarse}

    def _refine(self, x: Tensor, coarse: Tensor) -> Tensor:
        objects = gather_objects(x, coarse)
        context = attend(self.query(x), self.key(objects), self.value(objects))
        return self.fusion(torch.cat([self.project(context), x], dim=1))


def gather_objects(x: Tensor, coarse: Tensor) -> Tensor:
    r"""One feature a class: the mean over the image, weighted by a softmax over the pixels.

    .. math::

        o_k = \sum_p \operatorname{softmax}_p(z_{kp}) \, x_p

    Args:
        x: (N, C, H, W) features.
        coarse: (N, K, H, W) logits z.

    Returns:
        (N, C, K, 1), summed in float32 at least.
    """
    # Over 128 x 128 pixels the weights are about 6e-5, where float16 begins to lose digits.
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(x.dtype, torch.float32)
        weights = coarse.to(dtype).flatten(2).softmax(dim=2)
        objects = torch.einsum("ncp,nkp->nck", x.to(dtype).flatten(2), weights)
    return objects[..., None].to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    r"""Scaled dot-product attention of pixels to objects.

    .. math::

        c_p = \sum_k \operatorname{softmax}_k\left(\frac{q_p \cdot k_k}{\sqrt{A}}\right) v_k

    Args:
        query: (N, A, H, W).
        key: (N, A, K, 1).
        value: (N, A, K, 1).

    Returns:
        (N, A, H, W).
    """
    q = query.flatten(2).transpose(1, 2)
    k, v = (x[..., 0].transpose(1, 2) for x in (key, value))
    context = nn.functional.scaled_dot_product_attention(q, k, v)
    return context.transpose(1, 2).view_as(query)
