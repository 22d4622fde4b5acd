# SPDX-License-Identifier: Apache-2.0
"""The files of pictures, and a contact sheet of them all."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longtail.utils.io import atomic_write

SHEET = "contact_sheet"
_SHEET_WIDTH = 1800
_MARGIN = 10
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def picture_names(files: Sequence[str]) -> list[str]:
    """Name the pictures of images: as their files, or where these names repeat, as their paths.

    Args:
        files: different paths of images.

    Returns:
        Different names, without ending.
    """
    paths = [os.path.abspath(file) for file in files]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    below = [os.path.relpath(path, common).replace(os.sep, "_") for path in paths]
    # The last ones differ: the folder is named, and the ending is kept.
    for names in (
        [Path(path).stem for path in paths],
        [os.path.splitext(path)[0] for path in below],
        [f"{os.path.basename(common)}_{path}" for path in below],
    ):
        if len(set(names)) == len(names) and SHEET not in names:
            break
    return names


def write_pictures(folder: str, pictures: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write pictures as PNGs and, if there are several, :data:`SHEET`; print the paths.

    Args:
        folder: made if it is missing.
        pictures: names without ending, and (H, W, 3) uint8.
    """
    small = []
    for name, picture in pictures:
        _write(os.path.join(folder, f"{name}.png"), picture)
        # No cell of the sheet is wider than that.
        small.append((name, _scaled(Image.fromarray(picture), _SHEET_WIDTH)))
    if len(small) > 1:
        _write(os.path.join(folder, f"{SHEET}.png"), contact_sheet(small))


def contact_sheet(pictures: Sequence[tuple[str, Image.Image]]) -> np.ndarray:
    """Put pictures into rows, scaled to one width, each under its name.

    Args:
        pictures: names and pictures, at least one.

    Returns:
        (height, width, 3) uint8, about as high as it is wide.
    """
    aspect = np.mean([picture.height / picture.width for _, picture in pictures])
    per_row = min(len(pictures), max(1, round((len(pictures) * aspect) ** 0.5)))
    cell = (_SHEET_WIDTH - _MARGIN) // per_row - _MARGIN
    # None is enlarged.
    cell = min(cell, max(picture.width for _, picture in pictures))
    font = ImageFont.load_default(15)
    line = sum(font.getmetrics()) + 2
    scaled = [(name, _scaled(picture, cell)) for name, picture in pictures]
    rows = [scaled[i : i + per_row] for i in range(0, len(scaled), per_row)]
    heights = [line + max(picture.height for _, picture in row) + _MARGIN for row in rows]
    width = _MARGIN + per_row * (cell + _MARGIN)
    canvas = Image.new("RGB", (width, _MARGIN + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, (name, picture) in enumerate(row):
            left = _MARGIN + column * (cell + _MARGIN)
            draw.text((left, top), name, _INK, font)
            canvas.paste(picture, (left, top + line))
        top += height
    return np.asarray(canvas)


def _scaled(picture: Image.Image, width: int) -> Image.Image:
    if picture.width <= width:
        return picture
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _write(path: str, picture: np.ndarray) -> None:
    with atomic_write(path, "wb") as file:
        Image.fromarray(picture).save(file, format="PNG")
    print(path, flush=True)
