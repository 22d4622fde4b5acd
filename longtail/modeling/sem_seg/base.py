"""What all semantic heads share: pixel classifier, auxiliary head, losses, upsampling.

Shape alphabet:
    N: images of the batch
    C: channels of the pixel features
    H, W: height and width of the pixel features
    h, w: height and width of the (padded) images and their label maps
    K: classes
"""

from abc import ABC, abstractmethod

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn import functional as F


class PixelClassifier(nn.Conv2d):
    """Channel dropout and the 1x1 convolution to the classes.

    Both are one module, so that its input is the pixel feature *before* dropout.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        """
        Args:
            channels: C.
            num_classes: K.
            dropout: probability of a channel to be dropped in training, in [0, 1).
        """
        super().__init__(channels, num_classes, kernel_size=1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) pixel features to (N, K, H, W) logits."""
        return super().forward(F.dropout2d(features, self.dropout, self.training))


class SemSegHead(nn.Module, ABC):
    """A semantic head is its pixel features; everything after them is here.

    A subclass defines :meth:`pixel_features` and builds its layers; it has the interface of
    detectron2's heads, ``head(features, targets) -> (logits, losses)``.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_classes: int,
        common_stride: int,
        pixel_loss: nn.Module,
        loss_weight: float = 1.0,
        loss_name: str = "loss_sem_seg",
        ignore_value: int = 255,
        dropout: float = 0.1,
        auxiliary: "SemSegHead | None" = None,
    ) -> None:
        """
        Args:
            channels: C, what :meth:`pixel_features` returns.
            num_classes: K.
            common_stride: stride of the pixel features.
            pixel_loss: ``pixel_loss(logits (N,K,h,w), labels (N,h,w)) -> scalar``.
            loss_weight: factor of the pixel loss.
            loss_name: key of the pixel loss in the losses.
            ignore_value: label of the pixels that are left out.
            dropout: channel dropout before the classifier.
            auxiliary: a second head that only adds its loss in training.
        """
        super().__init__()
        self.predictor = PixelClassifier(channels, num_classes, dropout)
        self.common_stride = common_stride
        self.pixel_loss = pixel_loss
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.ignore_value = ignore_value
        self.auxiliary = auxiliary

    @abstractmethod
    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's maps to (N, C, H, W): what the pixel classifier reads, before dropout."""

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: the backbone's maps by name.
            targets: (N, h, w) labels, needed in training.

        Returns:
            In training None and the losses by name; in evaluation the (N, K, h, w) logits at image
            size and no losses.
        """
        logits = self.predictor(self.pixel_features(features))
        if not self.training:
            return resize(logits, scale_factor=self.common_stride), {}
        losses = {
            self.loss_name: self.loss_weight
            * self.pixel_loss(resize(logits, size=targets.shape[1:]), targets)
        }
        if self.auxiliary is not None:
            losses.update(self.auxiliary(features, targets)[1])
        return None, losses


def resize(
    x: Tensor, *, size: tuple[int, int] | None = None, scale_factor: int | None = None
) -> Tensor:
    """Bilinear resizing with ``align_corners=False``, as everywhere in the heads."""
    return F.interpolate(
        x, size=size, scale_factor=scale_factor, mode="bilinear", align_corners=False
    )


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    norm: str = "BN",
    dilation: int = 1,
    groups: int = 1,
) -> Conv2d:
    """Convolution that keeps the size, normalisation, ReLU; kaiming-normal fan-out weights.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd.
        norm: detectron2's name of a normalisation; the convolution has a bias only without one.
        dilation: distance of the kernel's taps.
        groups: groups of channels; ``in_channels`` for a depthwise convolution.
    """
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=torch.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv


def separable_conv(
    in_channels: int, out_channels: int, *, norm: str = "BN", dilation: int = 1
) -> nn.Sequential:
    """Depthwise 3x3, then pointwise 1x1, each with normalisation and ReLU."""
    return nn.Sequential(
        conv_norm_relu(
            in_channels, in_channels, 3, norm=norm, dilation=dilation, groups=in_channels
        ),
        conv_norm_relu(in_channels, out_channels, 1, norm=norm),
    )
