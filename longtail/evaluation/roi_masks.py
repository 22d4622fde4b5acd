# SPDX-License-Identifier: Apache-2.0
"""Masks at the size of the RoIs, encoded without being pasted into the image.

detectron2 pastes a mask by bilinear interpolation at the centres of the pixels and takes those of
0.5 and more; pycocotools then reads all pixels of the image for the lengths of the runs, which
:mod:`longtail.evaluation.mask_runs` finds without them.

The RLEs are those of detectron2's ``paste_masks_in_image`` on the CPU, bit for bit, also where the
model is on a GPU, whose own pasting may round a pixel to the other side.

Shapes: n masks (M, M) in [0, 1], with boxes x0, y0, x1, y1 in an image (H, W).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import ROIMasks

from longtail.evaluation.mask_runs import MASK_THRESHOLD, Placed, encode, window

# Columns of pixels at a time, 120 bytes each with masks of 28 x 28, several times over.
COLUMNS_AT_ONCE = 8192
# Masks that are pasted or encoded at a time by all of their pixels: 1 byte each.
MASKS_AT_ONCE = 32


def encode_roi_masks(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int
) -> list[dict[str, Any]]:
    """Encode masks that belong into their boxes as compressed RLEs of the whole image.

    Those of other types than float32, with values outside of [0, 1], or with a box without area
    or outside of the image, are pasted as detectron2 does, which takes many times as long.

    Args:
        masks: (n, M, M) probabilities.
        boxes: (n, 4) as x0, y0, x1, y1.
        height: H.
        width: W.

    Returns:
        ``{"size": [H, W], "counts": bytes}`` for each.
    """
    is_square = masks.shape[1] == masks.shape[2]
    if not is_square or masks.dtype != torch.float32 or boxes.dtype != torch.float32:
        return encode_pasted(masks, boxes, height, width)
    values, corners = masks.detach().cpu().numpy(), boxes.detach().cpu().numpy()
    plain = _are_plain(values, corners, height, width)
    rles: list[Any] = [None] * len(values)
    for indices in _chunks(np.flatnonzero(plain), corners, width):
        some = encode(Placed.of(values[indices], corners[indices], height, width))
        for index, rle in zip(indices.tolist(), some, strict=True):
            rles[index] = rle
    others = np.flatnonzero(~plain)
    if len(others):
        chosen = torch.as_tensor(others, device=masks.device)
        pasted = encode_pasted(masks[chosen], boxes[chosen], height, width)
        for index, rle in zip(others.tolist(), pasted, strict=True):
            rles[index] = rle
    return rles


def encode_pasted(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int
) -> list[dict[str, Any]]:
    """Encode masks by pasting them, as detectron2 does: arguments of :func:`encode_roi_masks`."""
    rles: list[dict[str, Any]] = []
    for start in range(0, len(masks), MASKS_AT_ONCE):
        some = slice(start, start + MASKS_AT_ONCE)
        pasted = ROIMasks(masks[some]).to_bitmasks(boxes[some], height, width, MASK_THRESHOLD)
        rles += _encode(pasted.tensor)
    return rles


def encode_bitmasks(masks: torch.Tensor, indices: torch.Tensor) -> list[dict[str, Any]]:
    """Encode masks of pixels as compressed RLEs.

    Args:
        masks: (D, H, W) of 0 and 1.
        indices: which of the D.
    """
    rles: list[dict[str, Any]] = []
    for start in range(0, len(indices), MASKS_AT_ONCE):
        rles += _encode(masks[indices[start : start + MASKS_AT_ONCE]])
    return rles


def _encode(masks: torch.Tensor) -> list[dict[str, Any]]:
    # (n, W, H) in memory is (H, W, n) in Fortran's order, which is what the encoder reads.
    columns = masks.to("cpu", torch.uint8).transpose(1, 2).contiguous()
    return mask_util.encode(columns.numpy().T)


def _are_plain(values: np.ndarray, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n,) bool: values in [0, 1], and a box that reaches into the image and has an area."""
    inside = (boxes[:, :2] < [width, height]).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)
    # NaN lies nowhere.
    return inside & has_area & ((values >= 0) & (values <= 1)).all(axis=(1, 2))


def _chunks(indices: np.ndarray, boxes: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Split masks so that each part has few columns, or one mask."""
    if len(indices):
        _, columns = window(boxes[indices, 0], boxes[indices, 2], width)
        part = np.cumsum(columns) // COLUMNS_AT_ONCE
        yield from np.split(indices, np.flatnonzero(np.diff(part)) + 1)
