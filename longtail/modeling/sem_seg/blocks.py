# SPDX-License-Identifier: Apache-2.0
"""The blocks that semantic heads are made of.

Shape alphabet:
    N: images of the batch
    C: channels
    H, W: height and width of a feature map
    P: pools of a pyramid
"""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn import functional as F


def check_positive(key: str, values: Sequence[int]) -> None:
    """Refuse values that are not positive integers.

    Raises:
        ValueError: there is no value, or one that is not an integer >= 1; ``key`` names them.
    """
    if not values or any(not isinstance(value, int) or value < 1 for value in values):
        raise ValueError(f"{key} must be one or more integers >= 1, got {list(values)}")


def resize(
    x: Tensor, *, size: tuple[int, int] | None = None, scale_factor: float | None = None
) -> Tensor:
    """Bilinear resizing with ``align_corners=False``, as everywhere in the heads."""
    return F.interpolate(
        x, size=size, scale_factor=scale_factor, mode="bilinear", align_corners=False
    )


def resize_logits(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the (N, K, h, w) logits of a loss to (H, W).

    A softmax over channels copies maps with channels last, and does so with the large ones if the
    small ones are not copied before.
    """
    return resize(x.contiguous(), size=size)


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


def pool_and_resize(x: Tensor, cells: int, conv: Conv2d) -> Tensor:
    """Average x over ``cells`` x ``cells`` parts, convolve, resize back.

    Args:
        x: (N, C, H, W).
        cells: parts a side, >= 1; 1 pools the image.
        conv: what :func:`conv_norm_relu` returned, of size 1.

    Returns:
        (N, C', H, W) with the convolution's C'.

    Raises:
        ValueError: batch normalization would have to learn from a single value a channel.
    """
    # Synchronized batch normalization, another class, sees the other processes' images. The number
    # of images is asked for in training alone: a graph that asks is one for that number.
    learns = conv.training and isinstance(conv.norm, nn.BatchNorm2d)
    if learns and cells == 1 and len(x) == 1:
        raise ValueError(
            "a batch of one image cannot be normalized where the head pools it to one cell: let "
            "SOLVER.IMS_PER_BATCH (divided by processes and SOLVER.ACCUMULATION_STEPS) be 2 or "
            "more, or MODEL.SEM_SEG_HEAD.NORM be GN"
        )
    return resize(conv(F.adaptive_avg_pool2d(x, cells)), size=x.shape[2:])


class PyramidPooling(nn.Module):
    """Averages of an image at several resolutions, joined to it: the module of PSPNet."""

    def __init__(
        self, in_channels: int, channels: int, pool_scales: Sequence[int], *, norm: str = "BN"
    ) -> None:
        """Build one convolution for each pool and the one that joins them.

        Args:
            in_channels: C.
            channels: of every pool and of the result.
            pool_scales: cells a side of the P pools, each >= 1.
            norm: detectron2's name of a normalisation.

        Raises:
            ValueError: no pool, or one without a cell.
        """
        super().__init__()
        check_positive("MODEL.SEM_SEG_HEAD.POOL_SCALES", pool_scales)
        self.pool_scales = tuple(pool_scales)
        self.pools = nn.ModuleList(
            conv_norm_relu(in_channels, channels, 1, norm=norm) for _ in pool_scales
        )
        self.bottleneck = conv_norm_relu(
            in_channels + len(pool_scales) * channels, channels, 3, norm=norm
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, channels, H, W)."""
        pooled = [
            pool_and_resize(x, cells, conv)
            for cells, conv in zip(self.pool_scales, self.pools, strict=True)
        ]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))
