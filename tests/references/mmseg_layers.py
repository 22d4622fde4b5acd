# SPDX-License-Identifier: Apache-2.0
"""Layers as plain functions of a state dict with mmsegmentation's tensor names.

References for tests: what mmsegmentation 1.2.2 computes in evaluation, said again from the
architectures' definitions, with its names spelled out and sizes read off the tensors. Nothing of
``longtail`` is used. ``state`` holds the tensors, ``prefix`` is the name of the layer.

Shape alphabet:
    N: images
    C: channels
    H, W: height and width of a map
    L: tokens
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def count(state: State, pattern: str) -> int:
    """How many of ``pattern.format(0)``, ``pattern.format(1)``, ... are in the state dict."""
    number = 0
    while pattern.format(number) in state:
        number += 1
    return number


def conv(state: State, prefix: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolution with zeros around, so that stride 1 keeps the size; groups from the shapes."""
    weight = state[f"{prefix}.weight"]
    return F.conv2d(
        x,
        weight,
        state.get(f"{prefix}.bias"),
        stride=stride,
        padding=dilation * (weight.shape[-1] // 2),
        dilation=dilation,
        groups=x.shape[1] // weight.shape[1],
    )


def batch_norm(state: State, prefix: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """(N, C, H, W) normalised with the stored statistics."""
    mean, var, weight, bias = (
        state[f"{prefix}.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def conv_bn_relu(state: State, prefix: str, x: Tensor, dilation: int = 1) -> Tensor:
    """mmcv's ConvModule."""
    return batch_norm(
        state, f"{prefix}.bn", conv(state, f"{prefix}.conv", x, dilation=dilation)
    ).relu()


def separable(state: State, prefix: str, x: Tensor, dilation: int = 1) -> Tensor:
    """mmcv's DepthwiseSeparableConvModule."""
    x = conv_bn_relu(state, f"{prefix}.depthwise_conv", x, dilation)
    return conv_bn_relu(state, f"{prefix}.pointwise_conv", x)


def linear(state: State, prefix: str, x: Tensor) -> Tensor:
    """(..., C) to (..., C')."""
    y = x @ state[f"{prefix}.weight"].T
    return y + state[f"{prefix}.bias"] if f"{prefix}.bias" in state else y


def layer_norm(state: State, prefix: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """(..., C) normalised over C."""
    centered = x - x.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    normalized = centered / torch.sqrt(variance + eps)
    return normalized * state[f"{prefix}.weight"] + state[f"{prefix}.bias"]


def feed_forward(state: State, prefix: str, x: Tensor) -> Tensor:
    """mmcv's FFN of two layers, without the identity."""
    return linear(state, f"{prefix}.layers.1", F.gelu(linear(state, f"{prefix}.layers.0.0", x)))


def attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """(N, L, 3 C) queries, keys and values of all heads, (heads, L, L) bias, to (N, L, C)."""
    heads = bias.shape[0]
    queries, keys, values = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, dim=-1))
    similarity = torch.einsum("nihc,njhc->nhij", queries, keys) / queries.shape[-1] ** 0.5
    weights = (similarity + bias).softmax(-1)
    return torch.einsum("nhij,njhc->nihc", weights, values).flatten(2)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of ``like``."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
