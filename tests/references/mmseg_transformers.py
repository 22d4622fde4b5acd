# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's transformer backbones as plain functions: images to the maps res2 .. res5.

Shape alphabet: see :mod:`.mmseg_layers`.
"""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.references.mmseg_layers import (
    State,
    attention,
    batch_norm,
    count,
    feed_forward,
    layer_norm,
    linear,
)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(N, H, W, C) with zeros at the bottom and at the right."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % multiple, 0, -height % multiple))


def patches(state: State, x: Tensor, size: int) -> Tensor:
    """(N, 3, h, w) images to (N, h / size, w / size, C): one linear layer on every patch."""
    x = x.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3)
    weight = state["backbone.patch_embed.projection.weight"].flatten(1)
    return x @ weight.T + state["backbone.patch_embed.projection.bias"]


def relative_bias(table: Tensor, height: int, width: int, side: int) -> Tensor:
    """(heads, L, L) of the tokens of a rectangle in a window of ``side``, row by row.

    ``table`` has a row for every difference of positions, (2 side - 1)^2 of them.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows + side - 1
    right = columns[:, None] - columns + side - 1
    return table[down * (2 * side - 1) + right].permute(2, 0, 1)


def swin_maps(state: State, x: Tensor) -> list[Tensor]:
    """Swin Transformer, with LayerNorm on every output."""
    x = pad_to_multiple(x.permute(0, 2, 3, 1), 4).permute(0, 3, 1, 2)
    x = layer_norm(state, "backbone.patch_embed.norm", patches(state, x, 4))
    maps = []
    for stage in range(4):
        name = f"backbone.stages.{stage}"
        for block in range(count(state, name + ".blocks.{}.norm1.weight")):
            prefix = f"{name}.blocks.{block}"
            y = layer_norm(state, f"{prefix}.norm1", x)
            x = x + window_attention(state, f"{prefix}.attn.w_msa", y, shifted=block % 2 == 1)
            y = layer_norm(state, f"{prefix}.norm2", x)
            x = x + feed_forward(state, f"{prefix}.ffn", y)
        maps.append(layer_norm(state, f"backbone.norm{stage}", x).permute(0, 3, 1, 2))
        if stage < 3:
            x = merge_patches(state, f"{name}.downsample", x)
    return maps


def window_attention(state: State, name: str, x: Tensor, shifted: bool) -> Tensor:
    """Attention inside windows of the (N, H, W, C) map, padded after its LayerNorm.

    Shifting the map cyclically and masking what then does not belong together is the same as
    cutting it half a window further right and down, with narrow windows at the borders.
    """
    height, width = x.shape[1:3]
    table = state[f"{name}.relative_position_bias_table"]
    side = (isqrt(len(table)) + 1) // 2
    x = pad_to_multiple(x, side)
    cuts = [
        [0, *range(side // 2 if shifted else side, length, side), length] for length in x.shape[1:3]
    ]
    y = torch.empty_like(x)
    for top, bottom in zip(cuts[0][:-1], cuts[0][1:], strict=True):
        for left, right in zip(cuts[1][:-1], cuts[1][1:], strict=True):
            window = x[:, top:bottom, left:right]
            bias = relative_bias(table, bottom - top, right - left, side)
            out = attention(linear(state, f"{name}.qkv", window.flatten(1, 2)), bias)
            y[:, top:bottom, left:right] = out.view(window.shape)
    return linear(state, f"{name}.proj", y)[:, :height, :width]


def merge_patches(state: State, name: str, x: Tensor) -> Tensor:
    """(N, H, W, C) to (N, H / 2, W / 2, 2 C), the four neighbors of a channel side by side."""
    x = pad_to_multiple(x, 2)
    neighbors = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    x = torch.stack(neighbors, dim=-1).flatten(3)
    return linear(state, f"{name}.reduction", layer_norm(state, f"{name}.norm", x))


def beit_maps(state: State, x: Tensor, out_blocks: list[int]) -> list[Tensor]:
    """BEiT without a final norm, and its neck to strides 4, 8, 16 and 32."""
    x = patches(state, x, 16)
    height, width = x.shape[1:3]
    x = torch.cat([state["backbone.cls_token"].expand(len(x), -1, -1), x.flatten(1, 2)], 1)
    maps = []
    for block in range(max(out_blocks) + 1):
        prefix = f"backbone.layers.{block}"
        y = layer_norm(state, f"{prefix}.ln1", x, eps=1e-6)
        y = beit_attention(state, f"{prefix}.attn", y, height, width)
        x = x + state[f"{prefix}.gamma_1"] * y
        y = layer_norm(state, f"{prefix}.ln2", x, eps=1e-6)
        x = x + state[f"{prefix}.gamma_2"] * feed_forward(state, f"{prefix}.ffn", y)
        if block in out_blocks:
            maps.append(x[:, 1:].unflatten(1, (height, width)).permute(0, 3, 1, 2))
    return neck_maps(state, maps)


def beit_attention(state: State, name: str, x: Tensor, height: int, width: int) -> Tensor:
    """Attention of all tokens, with no bias of the keys. The class token is the first."""
    table = state[f"{name}.relative_position_bias_table"]
    # The last three are the biases from the class token, to it, and of it to itself.
    side = (isqrt(len(table) - 3) + 1) // 2
    inside = relative_bias(table[:-3], height, width, side)
    bias = F.pad(inside, (1, 0, 1, 0))
    bias[:, 0, 1:] = table[-3, :, None]
    bias[:, 1:, 0] = table[-2, :, None]
    bias[:, 0, 0] = table[-1]
    q, v = state[f"{name}.q_bias"], state[f"{name}.v_bias"]
    qkv = linear(state, f"{name}.qkv", x) + torch.cat([q, torch.zeros_like(q), v])
    return linear(state, f"{name}.proj", attention(qkv, bias))


def neck_maps(state: State, maps: list[Tensor]) -> list[Tensor]:
    """Feature2Pyramid: four times the size, twice, the same, half."""
    res2, res3, res4, res5 = maps
    res2 = double(state, "neck.upsample_4x.0", res2)
    res2 = F.gelu(batch_norm(state, "neck.upsample_4x.1", res2))
    return [
        double(state, "neck.upsample_4x.3", res2),
        double(state, "neck.upsample_2x.0", res3),
        res4,
        F.max_pool2d(res5, 2),
    ]


def double(state: State, name: str, x: Tensor) -> Tensor:
    """Transposed 2x2 convolution with stride 2: every cell becomes four."""
    cells = torch.einsum("nchw,cdij->ndhiwj", x, state[f"{name}.weight"])
    return cells.flatten(4, 5).flatten(2, 3) + state[f"{name}.bias"][:, None, None]
