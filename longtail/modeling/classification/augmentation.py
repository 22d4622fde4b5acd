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
    shifts, mirrored = draw_shifts(len(images), pad, flip=flip)
    return move(images, shifts.to(images.device), mirrored.to(images.device), pad)


def draw_shifts(number: int, pad: int, *, flip: bool) -> tuple[Tensor, Tensor]:
    """Draw how a batch is shifted and which images are mirrored, from the CPU's generator.

    Args:
        number: N.
        pad: see :func:`shifted_and_flipped`.
        flip: likewise.

    Returns:
        (2, N) integers in 0..2 pad, rows and columns, and (N,) bool.
    """
    shifts = torch.randint(0, 2 * pad + 1, (2, number, 1))[..., 0]
    mirrored = torch.rand(number, 1)[:, 0] < 0.5 if flip else torch.zeros(number, dtype=torch.bool)
    return shifts, mirrored


def move(images: Tensor, shifts: Tensor, mirrored: Tensor, pad: int) -> Tensor:
    """Pad images with black, and cut their old size out of them.

    Nothing here makes a GPU wait or depends on values: it can be recorded in a CUDA graph.

    Args:
        images: (N, C, H, W) of any type.
        shifts: (2, N) integers in 0..2 pad, where the crops begin, on the images' device.
        mirrored: (N,) bool, likewise.
        pad: pixels on each side.

    Returns:
        (N, C, H, W) of the same type.
    """
    number, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) + shifts[0, :, None]
    columns = torch.arange(width, device=images.device) + shifts[1, :, None]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = F.pad(images, (pad, pad, pad, pad))
    which = torch.arange(number, device=images.device)[:, None, None]
    # Advanced indices around a slice move it to the end.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
