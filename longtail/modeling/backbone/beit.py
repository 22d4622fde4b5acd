# SPDX-License-Identifier: Apache-2.0
"""BEiT on images of any size.

Shapes: N images, T = 1 + rows * columns tokens (the first is the class token), C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.models import checkpoint
from timm.models.beit import Attention, Beit, gen_relative_position_index
from torch import Tensor
from torch.nn import functional as F

# A table ends with the offsets of class token to pixel, pixel to class token, and class token to
# itself.
CLASS_OFFSETS = 3


class TokenGrid(NamedTuple):
    """Positions of the tokens of an image: ``index`` is (T, T), the table's row for each pair."""

    rows: int
    columns: int
    index: Tensor


class AnySizeAttention(Attention):
    """BEiT's attention with its position table resized to the tokens at hand."""

    def forward(self, x: Tensor, shared_rel_pos_bias: TokenGrid) -> Tensor:
        """(N, T, C) to the same. timm's blocks hand the second argument on as it is."""
        grid = shared_rel_pos_bias
        table = resize_table(
            self.relative_position_bias_table, self.window_size, (grid.rows, grid.columns)
        )
        bias = table[grid.index].permute(2, 0, 1).contiguous()
        return super().forward(x, bias[None])

    def _get_rel_pos_bias(self) -> int:
        # timm adds this to the bias that it is given, which is the whole bias here.
        return 0


def resize_table(table: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A table of relative positions for another grid of tokens; the same where it is its own.

    Args:
        table: ((2 h - 1) (2 w - 1) + 3, heads) for h x w = ``own`` tokens.
        own: rows and columns that the table is for.
        grid: rows and columns that it is to be for; offsets between are interpolated (bicubic).
    """
    if tuple(own) == tuple(grid):
        return table
    sizes = [[2 * n - 1 for n in size] for size in (own, grid)]
    offsets = table[:-CLASS_OFFSETS].T.unflatten(1, sizes[0])[None]
    offsets = F.interpolate(offsets, size=sizes[1], mode="bicubic", align_corners=False)
    return torch.cat([offsets[0].flatten(1).T, table[-CLASS_OFFSETS:]])


def adapt_beit(model: Beit) -> None:
    """Let a BEiT take images of any size, in place; :func:`beit_maps` then runs it.

    Attention modules change their class alone: their tensors stay as timm made them.
    """
    model.patch_embed.strict_img_size = False
    for block in model.blocks:
        block.attn.__class__ = AnySizeAttention
        # A (T, T) table for each block: half a gigabyte in BEiT-L on images of 640 x 640.
        block.attn.relative_position_index = None


def beit_maps(model: Beit, image: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Outputs of blocks as maps (N, C, H / patch, W / patch), without the final normalization.

    Rows and columns of pixels that do not fill a patch, at the bottom and at the right, are left
    out, as BEiT's own code and mmsegmentation do; these take images of one grid of patches alone.

    Args:
        model: after :func:`adapt_beit`.
        image: (N, 3, H, W).
        blocks: their numbers from 0, ascending.
    """
    height, width = model.patch_embed.patch_size
    # Numbers also where a graph is traced.
    rows, columns = int(image.shape[2]) // height, int(image.shape[3]) // width
    image = image[:, :, : rows * height, : columns * width]
    index = gen_relative_position_index((rows, columns), device=image.device)
    grid = TokenGrid(rows, columns, index)
    x = model.patch_embed(image)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    maps = []
    for number, block in enumerate(model.blocks):
        if model.grad_checkpointing:
            x = checkpoint(block, x, shared_rel_pos_bias=grid)
        else:
            x = block(x, shared_rel_pos_bias=grid)
        if number in blocks:
            maps.append(x[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
    return maps
