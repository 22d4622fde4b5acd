# SPDX-License-Identifier: Apache-2.0
"""One label map: read, checked against its image, mapped to class indices, written as PNG.

H, W: height and width of an image.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from longtail.data.formats.headers import UnsuitableImageError, check_label_size
from longtail.data.formats.images import check_whole_image, read_label_map
from longtail.data.prepare.recipe import INVALID, TABLE_SIZE, Recipe, SourceError
from longtail.utils.io import atomic_write

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """An image and its labels in the source, and the files that they become.

    ``image_target`` equals ``image`` where the image already is in its place.
    """

    image: str
    label: str
    image_target: str
    label_target: str


def read_png(path: str) -> np.ndarray:
    """Read a label map as training does, and verify the file.

    Args:
        path: PNG file with one channel or a palette (whose indices are the labels).

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: as :func:`~longtail.data.formats.images.read_label_map`.
    """
    # Decoding alone does not look at the checksums: of 3600 CamVid label maps with one flipped
    # bit each, 260 gave wrong pixels without a word.
    return read_label_map(path, checksums=True)


def convert_pair(pair: Pair, recipe: Recipe) -> bool:
    """Write the label map of a pair, and its image where that is elsewhere.

    The label map comes last, so that where it is, everything is.

    Args:
        pair: the files.
        recipe: how the labels are read and what they become.

    Returns:
        Whether there was anything to do: not if the outputs exist and are newer than their
        sources, in which case nothing is decoded.

    Raises:
        SourceError: a file of the pair is unreadable, of the wrong size or with a label out of
            range. Nothing is written then.
        OSError: a file cannot be written.
    """
    if is_converted(pair):
        return False
    again = f"take it again from {recipe.archive}"
    header = _checked(check_whole_image, pair.image, again)
    labels = _checked(recipe.read, pair.label, again)
    try:
        both = f"take both again from {recipe.archive}"
        check_label_size(pair.label, labels.shape, pair.image, header, both)
    except UnsuitableImageError as error:
        raise SourceError(str(error)) from None
    indices = _class_indices(labels, recipe.table)
    if indices.min() == INVALID:
        values = ", ".join(str(value) for value in np.unique(labels[indices == INVALID])[:5])
        raise SourceError(
            f"{pair.label}: label out of range ({values}), expected {recipe.values}; {again}"
        )
    if pair.image_target != pair.image:
        with open(pair.image, "rb") as image, atomic_write(pair.image_target, "wb") as target:
            shutil.copyfileobj(image, target)
    with atomic_write(pair.label_target, "wb") as target:
        Image.fromarray(indices.astype(np.uint8)).save(target, format="PNG")
    return True


def is_converted(pair: Pair) -> bool:
    """Whether the outputs of a pair exist and are newer than their sources."""
    return _is_newer(pair.label_target, pair.label) and (
        pair.image_target == pair.image or _is_newer(pair.image_target, pair.image)
    )


def _is_newer(target: str, source: str) -> bool:
    try:
        return os.stat(target).st_mtime_ns > os.stat(source).st_mtime_ns
    except FileNotFoundError:
        return False


def _checked(read: Callable[[str], T], path: str, again: str) -> T:
    try:
        return read(path)
    except SourceError as problem:
        raise SourceError(f"{problem}; {again}") from None
    except UnsuitableImageError as problem:
        raise SourceError(str(problem)) from None  # another download would be the same
    except Exception as problem:
        # Decoders raise anything from OSError to struct.error on bytes that they did not expect.
        error = problem.__cause__ or problem
        reason = (str(error) or type(error).__name__).splitlines()[0].replace(repr(path), "it")
        raise SourceError(f"{path}: corrupt or cut short ({reason}); {again}") from error


def _class_indices(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    # Both -1 and TABLE_SIZE - 1 are the last entry: INVALID.
    return np.take(table, np.clip(labels.astype(np.int32), -1, TABLE_SIZE - 1))
