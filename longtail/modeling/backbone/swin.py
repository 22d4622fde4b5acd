# SPDX-License-Identifier: Apache-2.0
"""Swin as in its authors' semantic segmentation: windows of one size on images of any size."""

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

# For timm.create_model: windows never shrink to a small map and never lose their shift there.
SWIN_OPTIONS = {"always_partition": True}

# Added to the logits of pixels that are not neighbors; minus infinity in effect.
NO_ATTENTION = -100.0


class PaddedWindowBlock(SwinTransformerBlock):
    """Pads the map to whole windows and then shifts it.

    timm shifts first. The pad then lies between the map's last and first rows, so that pixels fall
    into other windows than in the authors' code wherever the size is not a multiple of the window.
    """

    def _attn(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to the same."""
        (height, width, channels), window, shift = x.shape[1:], self.window_size, self.shift_size
        # Rows and columns of windows.
        rows, columns = -(-height // window[0]), -(-width // window[1])
        x = F.pad(x, (0, 0, 0, columns * window[1] - width, 0, rows * window[0] - height))
        mask = None
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
            mask = shift_mask((rows, columns), window, shift, x)
        x = x.view(-1, rows, window[0], columns, window[1], channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, self.window_area, channels), mask)
        x = x.view(-1, rows, columns, *window, channels).transpose(2, 3)
        x = x.reshape(-1, rows * window[0], columns * window[1], channels)
        if any(shift):
            x = torch.roll(x, shift, dims=(1, 2))
        return x[:, :height, :width]


def shift_mask(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], like: Tensor
) -> Tensor:
    """Terms for the attention logits within the windows of a shifted map.

    After the shift the last window of an axis holds pixels from both ends of the map. Along an
    axis the pixels form three bands: all other windows, and the last window's two parts. A pixel
    attends to those of its own two bands.

    Args:
        grid: rows and columns of windows.
        window: height and width.
        shift: of the map, upwards and to the left, smaller than the window.
        like: a tensor of the type and device that the mask is to have.

    Returns:
        (windows, pixels of a window, pixels of a window); 0 or ``NO_ATTENTION``.
    """
    rows, columns = (
        sum((torch.arange(n * w, device=like.device) >= n * w - start).long() for start in (w, s))
        for n, w, s in zip(grid, window, shift, strict=True)
    )
    bands = 3 * rows.view(-1, 1, window[0], 1) + columns.view(1, -1, 1, window[1])
    bands = bands.reshape(-1, window[0] * window[1])
    apart = bands[:, :, None] != bands[:, None, :]
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, NO_ATTENTION)


def adapt_swin(model: nn.Module) -> None:
    """Make the blocks of a Swin that was built with ``SWIN_OPTIONS`` the authors', in place.

    The model takes images of any size (``strict_img_size=False``).

    timm offers no way to name a block's class, and building blocks anew would repeat how timm
    describes and initializes them; the new class has the same tensors and another function.
    """
    for block in model.modules():
        if isinstance(block, SwinTransformerBlock):
            block.__class__ = PaddedWindowBlock
            # The same to rounding; it does not keep the attention of all windows for the gradient.
            block.attn.fused_attn = True
    # Images of any size, padded to whole patches.
    model.patch_embed.dynamic_img_pad = True
