# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's convolutional backbones as plain functions: images to the maps res2 .. res5.

Shape alphabet: see :mod:`.mmseg_layers`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.references.mmseg_layers import State, batch_norm, conv, count, resize

# Output stride -> strides of the four stages, dilations of their first and of their other blocks.
STAGES = {
    8: ((1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1), (1, 1, 1, 1)),
}


def resnet_maps(state: State, x: Tensor, output_stride: int) -> list[Tensor]:
    """ResNetV1c (stem of three convolutions) or ResNeSt, whichever the tensors are of."""
    # Positions in a sequence of convolution, norm, ReLU, ...
    for index, stride in ((0, 2), (3, 1), (6, 1)):
        x = conv(state, f"backbone.stem.{index}", x, stride)
        x = batch_norm(state, f"backbone.stem.{index + 1}", x).relu()
    x = F.max_pool2d(x, 3, 2, padding=1)
    maps = []
    for layer, (stride, first, dilation) in enumerate(zip(*STAGES[output_stride], strict=True), 1):
        name = f"backbone.layer{layer}"
        for block in range(count(state, name + ".{}.conv1.weight")):
            options = (stride, first) if block == 0 else (1, dilation)
            x = bottleneck(state, f"{name}.{block}", x, *options)
        maps.append(x)
    return maps


def bottleneck(state: State, block: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """1x1, 3x3 (plain, with the stride, or split attention), 1x1, and the shortcut."""
    y = batch_norm(state, f"{block}.bn1", conv(state, f"{block}.conv1", x)).relu()
    if f"{block}.conv2.weight" in state:
        y = conv(state, f"{block}.conv2", y, stride, dilation)
        y = batch_norm(state, f"{block}.bn2", y).relu()
    else:
        y = split_attention(state, f"{block}.conv2", y, dilation)
        if stride > 1:
            y = F.avg_pool2d(y, 3, stride, padding=1)
    y = batch_norm(state, f"{block}.bn3", conv(state, f"{block}.conv3", y))
    return (y + shortcut(state, block, x, stride)).relu()


def shortcut(state: State, block: str, x: Tensor, stride: int) -> Tensor:
    """Nothing, a 1x1 convolution with the stride, or one after average pooling (ResNeSt)."""
    name = f"{block}.downsample"
    if f"{name}.0.weight" in state:
        return batch_norm(state, f"{name}.1", conv(state, f"{name}.0", x, stride))
    if f"{name}.1.weight" in state:
        # The first in the sequence is the pool. Border cells average what there is.
        x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
        return batch_norm(state, f"{name}.2", conv(state, f"{name}.1", x))
    return x


def split_attention(state: State, name: str, x: Tensor, dilation: int) -> Tensor:
    """Two parallel 3x3 convolutions, weighed per channel by a softmax over the two."""
    # (N, 2, C, H, W)
    splits = batch_norm(state, f"{name}.bn0", conv(state, f"{name}.conv", x, dilation=dilation))
    splits = splits.relu().unflatten(1, (2, -1))
    pooled = splits.sum(1).mean((2, 3), keepdim=True)
    hidden = batch_norm(state, f"{name}.bn1", conv(state, f"{name}.fc1", pooled)).relu()
    weights = conv(state, f"{name}.fc2", hidden).unflatten(1, (2, -1)).softmax(1)
    return (weights * splits).sum(1)


def basic_block(state: State, block: str, x: Tensor) -> Tensor:
    """Two 3x3 convolutions and the identity."""
    y = batch_norm(state, f"{block}.bn1", conv(state, f"{block}.conv1", x)).relu()
    y = batch_norm(state, f"{block}.bn2", conv(state, f"{block}.conv2", y))
    return (y + x).relu()


def hrnet_maps(state: State, x: Tensor) -> list[Tensor]:
    """HRNet: four resolutions side by side, exchanged after every module."""
    for index in (1, 2):
        x = conv(state, f"backbone.conv{index}", x, stride=2)
        x = batch_norm(state, f"backbone.bn{index}", x).relu()
    for block in range(count(state, "backbone.layer1.{}.conv1.weight")):
        x = bottleneck(state, f"backbone.layer1.{block}", x)
    maps = [x]
    for stage in (2, 3, 4):
        maps = hrnet_transition(state, f"backbone.transition{stage - 1}", maps, stage)
        name = f"backbone.stage{stage}"
        for module in range(count(state, name + ".{}.branches.0.0.conv1.weight")):
            maps = hrnet_module(state, f"{name}.{module}", maps)
    return maps


def hrnet_transition(state: State, name: str, maps: list[Tensor], branches: int) -> list[Tensor]:
    """One more resolution, made from the lowest one; others get other widths where named."""
    result = []
    for branch in range(branches):
        x = maps[min(branch, len(maps) - 1)]
        if f"{name}.{branch}.0.weight" in state:
            x = batch_norm(state, f"{name}.{branch}.1", conv(state, f"{name}.{branch}.0", x)).relu()
        elif f"{name}.{branch}.0.0.weight" in state:
            x = conv(state, f"{name}.{branch}.0.0", x, stride=2)
            x = batch_norm(state, f"{name}.{branch}.0.1", x).relu()
        result.append(x)
    return result


def hrnet_module(state: State, name: str, maps: list[Tensor]) -> list[Tensor]:
    """Residual blocks on every resolution, then each becomes the sum of all."""
    after = []
    for branch, x in enumerate(maps):
        for block in range(count(state, f"{name}.branches.{branch}" + ".{}.conv1.weight")):
            x = basic_block(state, f"{name}.branches.{branch}.{block}", x)
        after.append(x)
    return [
        torch.stack(
            [
                hrnet_exchange(state, f"{name}.fuse_layers.{to}.{of}", x, to - of, after[to])
                for of, x in enumerate(after)
            ]
        )
        .sum(0)
        .relu()
        for to in range(len(after))
    ]


def hrnet_exchange(state: State, name: str, x: Tensor, halvings: int, like: Tensor) -> Tensor:
    """A map at another resolution: 1x1 and bilinear upwards, 3x3 with stride 2 downwards."""
    if halvings < 0:
        x = batch_norm(state, f"{name}.1", conv(state, f"{name}.0", x))
        # Twice: by the factor, then to the size, which differs where halving has rounded up.
        x = F.interpolate(x, scale_factor=2**-halvings, mode="bilinear", align_corners=False)
        return resize(x, like)
    for step in range(halvings):
        x = conv(state, f"{name}.{step}.0", x, stride=2)
        x = batch_norm(state, f"{name}.{step}.1", x)
        if step < halvings - 1:
            x = x.relu()
    return x
