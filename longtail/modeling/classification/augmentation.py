# SPDX-License-Identifier: Apache-2.0
"""Augmentation of small images as a batch, on the device of the model.

Shape alphabet:
    N: images of the batch
    H, W: height and width
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted_and_flipped(images: Tensor, pad: int, *, flip: bool) -> Tensor:
    """Pad images with black, crop each at random to its old size, and mirror half of them.

    What is random is drawn from torch's global generator of the CPU, whatever the device: a run
    on a GPU sees the same images.

    Args:
        images: (N, C, H, W) of any type.
        pad: pixels on each side, at least 0; shifts are up to so many, all equally likely.
        flip: whether each image is mirrored, left to right, with probability 1/2.

    Returns:
        (N, C, H, W) of the same type on the same device.
    """
    number, _, height, width = images.shape
    shifts = torch.randint(0, 2 * pad + 1, (2, number, 1))
    rows = torch.arange(height) + shifts[0]
    columns = torch.arange(width) + shifts[1]
    if flip:
        mirrored = torch.rand(number, 1) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    padded = F.pad(images, (pad, pad, pad, pad))
    which = torch.arange(number, device=images.device)[:, None, None]
    # Advanced indices around a slice move it to the end.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
