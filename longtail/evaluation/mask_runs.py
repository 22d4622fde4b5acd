# SPDX-License-Identifier: Apache-2.0
"""Runs of masks that are interpolated into an image, from the masks' own rows and columns.

Within a column of pixels the interpolation is a broken line with a knot for each row of the mask:
runs begin and end where it crosses 0.5, which is found from the knots without a look at the pixels.

detectron2's rounding is not repeated but bounded: where a knot, or a pixel beside a crossing, is so
close to 0.5 that rounding could decide, detectron2's own operator is asked for that column.

Shapes: n masks (M, M) in [0, 1], with boxes x0, y0, x1, y1 in an image (H, W); C columns of pixels
and E ends of runs of all of them, or of some.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch.nn import functional as F

MASK_THRESHOLD = 0.5  # detectron2's
# Columns that the operator is asked for at a time, each with a copy of its mask.
EXACT_AT_ONCE = 256


def window(low: np.ndarray, high: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) first and (n,) number of pixels of an axis that detectron2 looks at."""
    first = np.maximum(np.floor(low) - 1, 0).astype(np.int64)
    return first, np.minimum(np.ceil(high) + 1, size).astype(np.int64) - first


@dataclass(frozen=True)
class Placed:
    """Masks that are encoded together.

    Attributes:
        masks: (n, M, M) float32.
        boxes: (n, 4) float32.
        size: (H, W).
        x: (n,) first columns of their windows.
        columns: (n,) numbers of columns.
        y: (n,) first rows.
        rows: (n,) numbers of rows.
        mask: (C,) index of a column's mask.
        place: (C,) its place in the window.
    """

    masks: np.ndarray
    boxes: np.ndarray
    size: tuple[int, int]
    x: np.ndarray
    columns: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    mask: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> "Placed":
        """Find the windows of pixels that detectron2 looks at.

        Args:
            masks: (n, M, M) float32 in [0, 1].
            boxes: (n, 4) float32, finite, each with an area and a part of it in the image.
            height: H.
            width: W.
        """
        x, columns = window(boxes[:, 0], boxes[:, 2], width)
        y, rows = window(boxes[:, 1], boxes[:, 3], height)
        mask = np.repeat(np.arange(len(masks)), columns)
        place = np.arange(len(mask)) - np.repeat(np.cumsum(columns) - columns, columns)
        return cls(masks, boxes, (height, width), x, columns, y, rows, mask, place)

    def sampled(self, pixel: np.ndarray, mask: np.ndarray, axis: int) -> np.ndarray:
        """Where pixels lie in [-1, 1] of their boxes: detectron2's operations one by one, float32.

        Args:
            pixel: (E,) indices in the image.
            mask: (E,) or one.
            axis: 0 of columns, 1 of rows.
        """
        low, high = self.boxes[mask, axis], self.boxes[mask, axis + 2]
        with np.errstate(over="ignore"):
            return (pixel.astype(np.float32) + np.float32(0.5) - low) / (high - low) * 2 - 1

    def knots(self, pixel: np.ndarray, mask: np.ndarray, axis: int) -> np.ndarray:
        """Where pixels lie among the knots: i at the centre of a mask's row or column i.

        Outside of the mask, which ends with zeros at -1 and M, at these.
        """
        size = self.masks.shape[1]
        sampled = self.sampled(pixel, mask, axis).astype(np.float64)
        return np.clip((sampled + 1) * (size / 2) - 0.5, -1, size)


def encode(placed: Placed) -> list[dict[str, Any]]:
    """Encode masks as compressed RLEs of the whole image.

    Args:
        placed: n masks.

    Returns:
        n times ``{"size": [H, W], "counts": bytes}``.
    """
    height, width = placed.size
    lines = _lines(placed)
    column, row, unsure = _ends(placed, lines, _rounding(placed.masks.shape[1]))
    # One number for each end, by mask and in the order of the encoding. Each mask's begin apart
    # from those before: an end at H * W is not the next one's at 0.
    area = height * width + 1

    def number(column: np.ndarray, row: np.ndarray) -> np.ndarray:
        mask = placed.mask[column]
        x, y = placed.x[mask] + placed.place[column], placed.y[mask] + row
        return mask * area + x * height + y

    ends = number(column, row)
    if unsure.any():
        exact = [number(*some) for some in _exact_ends(placed, np.flatnonzero(unsure))]
        ends = np.sort(np.concatenate([ends[~unsure[column]], *exact]), kind="stable")
    ends = _odd(ends)
    ends = ends[ends % area != height * width]
    return _compress(ends, len(placed.masks), height, width)


def _rounding(size: int) -> float:
    """More than the distance of detectron2's interpolation, and of :func:`_lines`, to exact values.

    The operator turns [-1, 1] into knots by (s + 1) * M / 2 - 1/2, with numbers up to M + 1 and
    three roundings of 2**-24 each, fused or not; a knot's step changes the value by 1 at most, on
    both axes: below 7 (M + 1) 2**-24. Weights and sums add less than 16 roundings of values up
    to 1. The bound is twice that.
    """
    return (size + 2) * 2.0**-20


def _lines(placed: Placed) -> np.ndarray:
    """(C, M + 2) float32: the interpolation at each column and at the knots -1, 0, ..., M."""
    size = placed.masks.shape[1]
    # Rows here are the masks' columns; another zero for the knot after the last.
    knots = np.zeros((len(placed.masks), size + 3, size + 2), np.float32)
    knots[:, 1 : size + 1, 1:-1] = placed.masks.transpose(0, 2, 1)
    knots = knots.reshape(-1, size + 2)
    at = placed.knots(placed.x[placed.mask] + placed.place, placed.mask, axis=0)
    low = np.floor(at)
    weight = (at - low).astype(np.float32)[:, None]
    first = placed.mask * (size + 3) + low.astype(np.int64) + 1
    lines = knots[first]
    lines *= 1 - weight
    after = knots[first + 1]
    after *= weight
    lines += after
    return lines


def _ends(
    placed: Placed, lines: np.ndarray, rounding: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find where runs begin or end.

    Args:
        placed: the masks.
        lines: (C, M + 2) of :func:`_lines`.
        rounding: of :func:`_rounding`.

    Returns:
        (E,) columns, rising; (E,) rows of the windows from which on a run begins or ends, rising
        within a column, of which equal ones undo each other; (C,) bool: rounding could change
        this column.
    """
    inside = lines >= MASK_THRESHOLD
    low = lines >= np.float32(MASK_THRESHOLD - rounding)
    high = lines >= np.float32(MASK_THRESHOLD + rounding)
    if np.count_nonzero(low) != np.count_nonzero(high):
        unsure = (low != high).any(axis=1)
    else:
        unsure = np.zeros(len(lines), bool)
    column, knot = np.divmod(np.flatnonzero(inside[:, 1:] != inside[:, :-1]), inside.shape[1] - 1)
    before = lines[column, knot].astype(np.float64)
    step = lines[column, knot + 1] - before
    mask = placed.mask[column]
    # The crossing among the knots, then among the rows of the window.
    crossing = knot - 1 + (MASK_THRESHOLD - before) / step
    top, bottom = placed.boxes[mask, 1].astype(np.float64), placed.boxes[mask, 3]
    exact = (crossing + 0.5) / placed.masks.shape[1] * (bottom - top) + top - 0.5
    row = np.clip(np.ceil(exact - placed.y[mask]), 0, placed.rows[mask]).astype(np.int64)
    # Between two knots the line only rises or falls: if the pixels beside the crossing are on
    # their sides of it, so are all others. Beyond the knots the line is someone else's.
    sign = np.sign(step)
    for offset, side in ((0, sign), (-1, -sign)):
        pixel = row + offset
        part = np.clip(placed.knots(placed.y[mask] + pixel, mask, axis=1) - (knot - 1), 0, 1)
        wrong = side * (before + step * part - MASK_THRESHOLD) < rounding
        wrong &= (pixel >= 0) & (pixel < placed.rows[mask])
        unsure[column[wrong]] = True
    return column, row, unsure


def _exact_ends(placed: Placed, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ends of runs in some columns, by detectron2's operator: columns and rows as `_ends`'."""
    for start in range(0, len(columns), EXACT_AT_ONCE):
        some = columns[start : start + EXACT_AT_ONCE]
        mask = placed.mask[some]
        rows = np.arange(placed.rows[mask].max())
        grid = np.empty((len(some), len(rows), 1, 2), np.float32)
        grid[..., 0] = placed.sampled(placed.x[mask] + placed.place[some], mask, 0)[:, None, None]
        grid[..., 0, 1] = placed.sampled(placed.y[mask, None] + rows, mask[:, None], axis=1)
        values = F.grid_sample(
            torch.from_numpy(placed.masks[mask, None]), torch.from_numpy(grid), align_corners=False
        )
        inside = np.zeros((len(some), len(rows) + 2), bool)
        inside[:, 1:-1] = (values[:, 0, :, 0] >= MASK_THRESHOLD).numpy()
        inside[:, 1:-1] &= rows < placed.rows[mask, None]
        column, row = np.nonzero(inside[:, 1:] != inside[:, :-1])
        yield some[column], row


def _odd(ends: np.ndarray) -> np.ndarray:
    """Those of sorted numbers that are there an odd number of times, once."""
    new = np.ones(len(ends), bool)
    np.not_equal(ends[1:], ends[:-1], out=new[1:])
    if new.all():
        return ends
    first = np.flatnonzero(new)
    times = np.diff(first, append=len(ends))
    return ends[first[times % 2 == 1]]


def _compress(ends: np.ndarray, masks: int, height: int, width: int) -> list[dict[str, Any]]:
    """Turn the ends of runs into RLEs.

    Args:
        ends: (E,) of :func:`_runs`, sorted, without those at H * W.
        masks: n.
        height: H.
        width: W.
    """
    starts = np.arange(masks) * (height * width + 1)
    bounds = np.searchsorted(ends, [*starts.tolist(), masks * (height * width + 1)])
    # Each mask's with 0 before and H * W after them: what lies between is the counts.
    mask = np.repeat(np.arange(masks), np.diff(bounds))
    framed = np.empty(len(ends) + 2 * masks, np.int64)
    framed[np.arange(len(ends)) + 2 * mask + 1] = ends
    framed[bounds[:-1] + 2 * np.arange(masks)] = starts
    framed[bounds[1:] + 2 * np.arange(masks) + 1] = starts + height * width
    counts = np.diff(framed).astype(np.uint32)
    places = bounds + 2 * np.arange(masks + 1)
    rles = [
        {"size": [height, width], "counts": counts[first : last - 1]}
        for first, last in zip(places[:-1].tolist(), places[1:].tolist(), strict=True)
    ]
    return mask_util.frPyObjects(rles, height, width)
