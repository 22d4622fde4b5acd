# SPDX-License-Identifier: Apache-2.0
"""Segmentations in LVIS's and COCO's JSON, checked before pycocotools sees them.

It trusts them: a polygon with NaN or 1e9, or counts of another size, end the process without a
message.

H, W: height and width of an image.
"""

import math
from array import array
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

Entry = dict[str, Any]

# How far from the origin a coordinate may lie, in the image's longer sides.
REACH = 2
# pycocotools walks along an outline in steps of 1/5 pixel, and keeps them all, 24 bytes each.
STEPS = 5
MAX_STEPS = 40_000_000
# Characters of a compressed count: 5 bits each, and no image has 2^35 pixels.
MAX_CHARACTERS = 7


def has_segmentation(item: Entry) -> bool:
    """Whether an annotation has an outline; some tools write ``[]`` where there is a box alone."""
    return item.get("segmentation") not in (None, [])


def check_segmentation(shape: object, height: int, width: int) -> None:
    """Check polygons or an RLE.

    Args:
        shape: at least one polygon ``[x1, y1, x2, y2, ...]`` (list or array) of at least 3
            points, none further from the origin than twice the image's longer side; or
            ``{"size": [H, W], "counts": text or list}``, whose runs add up to H * W.
        height: H of the image.
        width: W of the image.

    Raises:
        ValueError: ``shape`` is neither. The message goes on after the name of an annotation:
            "has ...".
    """
    if isinstance(shape, dict):
        _check_rle(shape, height, width)
        return
    if not isinstance(shape, list) or not shape or not all(map(_is_polygon, shape)):
        raise ValueError(
            "has an invalid polygon: expected at least one list [x1, y1, x2, y2, ...] of 3 points "
            "or more, or an RLE"
        )
    limit = REACH * max(height, width)
    steps = 0.0
    for polygon in shape:
        points = _numbers(polygon)
        if points is None or not np.isfinite(points).all() or np.abs(points).max() > limit:
            wrong = next((v for v in polygon if not _is_near(v, limit)), polygon)
            raise ValueError(
                f"has an invalid polygon: the coordinate {wrong!r:.40}, expected numbers from "
                f"{-limit} to {limit} for an image of {height} x {width} pixels"
            )
        corners = points.reshape(-1, 2)
        edges = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
        steps += STEPS * edges.sum() + len(edges)
    if steps > MAX_STEPS:
        raise ValueError(
            f"has an invalid polygon: outlines of {steps / STEPS:.2g} pixels, expected at most "
            f"{MAX_STEPS / STEPS:.2g}"
        )


def are_plain_polygons(shapes: Sequence[object], limits: Sequence[float]) -> bool:
    """Tell, in a fraction of the time, whether all are polygons that are right beyond doubt.

    Args:
        shapes: segmentations of M annotations, M > 0.
        limits: for each the largest right distance from the origin.

    Returns:
        False where :func:`check_segmentation` has to look, which may accept them all the same.
    """
    if not {list}.issuperset(map(type, shapes)):
        return False
    polygons = list(chain.from_iterable(shapes))
    if not all(shapes) or not {list}.issuperset(map(type, polygons)):
        return False
    sizes = np.fromiter(map(len, polygons), np.int64, len(polygons))
    if sizes.min() < 6 or (sizes % 2).any():
        return False
    numbers = _numbers(list(chain.from_iterable(polygons)))
    if numbers is None:
        return False
    ends = np.cumsum(sizes)[np.cumsum([len(shape) for shape in shapes]) - 1]
    starts = np.concatenate([[0], ends[:-1]])
    limit = np.asarray(limits, np.float64)
    # Not "> limit": that would let NaN pass.
    if not (np.maximum.reduceat(np.abs(numbers), starts) <= limit).all():
        return False
    return bool(((ends - starts) * limit * STEPS <= MAX_STEPS).all())


def compressed_rle(rle: Entry) -> Entry:
    """Compress the counts of an RLE, unless they are.

    Args:
        rle: what :func:`check_segmentation` accepts.

    Returns:
        ``{"size": [H, W], "counts": text or bytes}``.
    """
    return rle if isinstance(rle["counts"], str) else mask_util.frPyObjects(rle, *rle["size"])


def segmentation_rle(shape: object, height: int, width: int) -> Entry:
    """Check a segmentation and turn it into one compressed RLE.

    Args:
        shape: as for :func:`check_segmentation`.
        height: H of the image.
        width: W of the image.

    Returns:
        ``{"size": [H, W], "counts": text or bytes}`` of all polygons together.

    Raises:
        ValueError: as :func:`check_segmentation`.
    """
    check_segmentation(shape, height, width)
    return checked_rles([shape], height, width)[0]


def checked_rles(shapes: Sequence[Any], height: int, width: int) -> list[Entry]:
    """Turn segmentations of one image, which :func:`check_segmentation` accepts, into RLEs.

    Args:
        shapes: as for :func:`check_segmentation`.
        height: H of the image.
        width: W of the image.

    Returns:
        For each ``{"size": [H, W], "counts": text or bytes}`` of all its polygons together.
    """
    polygons = [part for shape in shapes if not isinstance(shape, dict) for part in shape]
    encoded = iter(mask_util.frPyObjects(polygons, height, width) if polygons else ())
    rles = []
    for shape in shapes:
        if isinstance(shape, dict):
            rles.append(compressed_rle(shape))
        else:
            parts = list(islice(encoded, len(shape)))
            rles.append(parts[0] if len(parts) == 1 else mask_util.merge(parts))
    return rles


def decoded_counts(text: str) -> np.ndarray:
    """Decode the compressed counts of COCO's RLE.

    A count is written in groups of 5 bits, the lowest first: a character is 48 plus the bits, plus
    32 if more follow; the highest bit of the last is the sign. From the fourth count on it is the
    difference from the count two before.

    Args:
        text: as in a JSON file.

    Returns:
        (runs,) int64.

    Raises:
        ValueError: the text is not that.
    """
    values = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if values.size == 0:
        return values
    if values.min() < 0 or values.max() > 63:
        raise ValueError("a character that counts do not have")
    last = values & 32 == 0
    if not last[-1]:
        raise ValueError("cut short")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_CHARACTERS:
        raise ValueError("a count that no image has")
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((values & 31) << (5 * place), starts)
    counts -= np.where(values[ends] & 16, 1 << (5 * lengths), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def _check_rle(rle: Entry, height: int, width: int) -> None:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(counts, (str, list)) or size != [height, width]:
        raise ValueError(
            f"has an RLE without counts or of the size {size!r:.40}, expected counts and "
            f"{[height, width]} (height, width), as its image"
        )
    if isinstance(counts, list):
        if not {int}.issuperset(map(type, counts)) or min(counts, default=0) < 0:
            raise ValueError("has an invalid RLE: expected counts that are integers >= 0")
        total = sum(counts)
    else:
        try:
            decoded = decoded_counts(counts)
        except ValueError as error:
            raise ValueError(
                f"has an invalid RLE: its counts are not text of COCO's ({error})"
            ) from None
        if (decoded < 0).any():
            raise ValueError("has an invalid RLE: expected counts that are integers >= 0")
        total = int(decoded.sum())
    if total != height * width:
        raise ValueError(
            f"has an invalid RLE: counts of {total} pixels, expected {height * width} for an image "
            f"of {height} x {width}"
        )


def _is_polygon(part: object) -> bool:
    flat = isinstance(part, list) or (isinstance(part, np.ndarray) and part.ndim == 1)
    return flat and len(part) >= 6 and len(part) % 2 == 0


def _is_near(value: object, limit: float) -> bool:
    try:
        return math.fabs(value) <= limit
    except (TypeError, OverflowError):
        return False


def _numbers(values: Sequence) -> np.ndarray | None:
    """Numbers as float64; None where one is something else, such as text, or too large."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    try:
        return np.frombuffer(array("d", values))
    except (TypeError, OverflowError):
        return None
