# SPDX-License-Identifier: Apache-2.0
"""Pictures of one size in a row, with captions and a legend.

Shapes: (H, W) image size. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longtail.visualization.painting import Color

_MARGIN = 8
_PAPER, _INK, _PALE_INK = (255, 255, 255), (20, 20, 20), (90, 90, 90)


class Column(NamedTuple):
    """One picture of a row."""

    name: str
    """First line of the caption."""
    image: np.ndarray
    """(H, W, 3) uint8."""
    note: str = ""
    """Second line of the caption."""


def side_by_side(columns: Sequence[Column], legend: Sequence[tuple[str, Color]]) -> np.ndarray:
    """Put pictures in a row, each under its caption, above a legend.

    Args:
        columns: at least one, with images of the same size.
        legend: names and colours, in the order of reading.

    Returns:
        (height, width, 3) uint8, on white. Columns are as wide as the images, or wider if a
        caption needs it.

    Raises:
        ValueError: no column, or images of different sizes.
    """
    shapes = {column.image.shape for column in columns}
    if len(shapes) != 1:
        raise ValueError(
            "side_by_side needs one or more images (H, W, 3) of the same size, got shapes "
            f"{sorted(shapes)}"
        )
    height, width, _ = shapes.pop()
    font = ImageFont.load_default(max(15, height // 22))
    line = sum(font.getmetrics()) + 2
    captions = [(column.name, column.note) for column in columns]
    cell = max(width, *(text_width(font, text) for caption in captions for text in caption))
    caption_height = line * (2 if any(column.note for column in columns) else 1)
    top = 2 * _MARGIN + caption_height
    swatches = _LegendGrid(font, line, legend, (cell + _MARGIN) * len(columns) - _MARGIN)
    canvas = Image.new(
        "RGB",
        (swatches.width + 2 * _MARGIN, top + height + _MARGIN + swatches.height),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    for index, column in enumerate(columns):
        left = _MARGIN + index * (cell + _MARGIN)
        draw.text((left, _MARGIN), column.name, _INK, font)
        draw.text((left, _MARGIN + line), column.note, _PALE_INK, font)
        canvas.paste(Image.fromarray(column.image), (left, top))
    swatches.draw(draw, _MARGIN, top + height + _MARGIN)
    return np.asarray(canvas)


class _LegendGrid:
    """Swatches with names, in as many equal columns as fit into a width."""

    def __init__(
        self,
        font: ImageFont.FreeTypeFont,
        line: int,
        legend: Sequence[tuple[str, Color]],
        width: int,
    ) -> None:
        self._font, self._line, self._legend = font, line, legend
        names = [text_width(font, name) for name, _ in legend]
        self._cell = max(names, default=0) + line + 2 * _MARGIN
        self.width = max(width, self._cell)
        self._per_row = self.width // self._cell
        rows = -(-len(legend) // self._per_row)
        self.height = rows * line + (_MARGIN if rows else 0)

    def draw(self, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
        side = round(0.7 * self._line)
        inset = (self._line - side) // 2
        for index, (name, color) in enumerate(self._legend):
            x = left + index % self._per_row * self._cell
            y = top + index // self._per_row * self._line
            box = (x, y + inset, x + side, y + inset + side)
            draw.rectangle(box, fill=tuple(color), outline=_PALE_INK)
            draw.text((x + self._line, y), name, _INK, self._font)


def enlargement(image: np.ndarray, side: int) -> int:
    """By how many times an (H, W, ...) image is enlarged to be at most ``side`` on its shorter one.

    Larger ones stay as they are.
    """
    return max(1, side // min(image.shape[:2]))


def enlarged(image: np.ndarray, times: int) -> np.ndarray:
    """Repeat every pixel of an (H, W, ...) image or mask."""
    return image.repeat(times, axis=0).repeat(times, axis=1)


def text_width(font: ImageFont.FreeTypeFont, text: str) -> int:
    """The pixels that a line of text takes."""
    return int(np.ceil(font.getlength(text)))
