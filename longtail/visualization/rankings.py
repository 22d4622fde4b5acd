# SPDX-License-Identifier: Apache-2.0
"""An image and the best classes of runs as bars, side by side.

Shapes: K classes, (H, W) image size. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longtail.evaluation.classification.predictions import NUM_BEST
from longtail.visualization.differences import top1_differs
from longtail.visualization.layout import (
    Column,
    enlarged,
    enlargement,
    side_by_side,
    text_width,
)
from longtail.visualization.painting import Color
from longtail.visualization.predictions import Ranking

_INK, _TRACK = (20, 20, 20), (225, 225, 225)
_PANEL, _HIGHLIGHT = (246, 246, 246), (255, 243, 190)
# Smaller images are enlarged, and narrower ones get margins, so that names and bars have room.
_SIDE = 256
_MARGIN = 8


def draw_bars(
    ranking: Ranking,
    size: tuple[int, int],
    class_names: Sequence[str],
    colors: Sequence[Color],
    label: int | None = None,
    background: Color = _PANEL,
) -> np.ndarray:
    """Draw the scores of the best classes as bars, the best one on top.

    Args:
        ranking: classes and scores, 0..1.
        size: height and width of the panel.
        class_names: K names.
        colors: K colours.
        label: the right class, if it is known; its name has a frame.
        background: colour.

    Returns:
        (H, W, 3) uint8. The whole width without margins is a score of 1.
    """
    height, width = size
    canvas = Image.new("RGB", (width, height), tuple(background))
    draw = ImageDraw.Draw(canvas)
    row = height // NUM_BEST
    font = ImageFont.load_default(max(11, min(row // 3, width // 22)))
    line = sum(font.getmetrics())
    full = width - 2 * _MARGIN
    for place, (label_, score) in enumerate(zip(ranking.classes, ranking.scores, strict=True)):
        top = place * row + max(1, (row - line - row // 4) // 2)
        percent = f"{100 * score:.1f}%"
        room = full - text_width(font, percent) - _MARGIN
        name = _shortened(class_names[label_], font, room)
        draw.text((_MARGIN, top), name, _INK, font)
        draw.text((width - _MARGIN - text_width(font, percent), top), percent, _INK, font)
        if label_ == label:
            box = (_MARGIN - 4, top, _MARGIN + text_width(font, name) + 3, top + line)
            draw.rectangle(box, outline=_INK, width=2)
        bar = (_MARGIN, top + line + 2, width - _MARGIN - 1, top + line + 2 + row // 4)
        draw.rectangle(bar, _TRACK)
        length = round(full * min(max(score, 0.0), 1.0))
        if length:
            draw.rectangle((*bar[:2], _MARGIN + length - 1, bar[3]), tuple(colors[label_]))
    return np.asarray(canvas)


def comparison_of_rankings(
    image: np.ndarray,
    label: int | None,
    predictions: Mapping[str, Ranking],
    class_names: Sequence[str],
    colors: Sequence[Color],
    *,
    highlight: bool = False,
) -> np.ndarray:
    """Draw the image, with its class, and the bars of predictions side by side.

    Args:
        image: (H, W, 3) uint8.
        label: its class, if it is known.
        predictions: best classes by the name of their column.
        class_names: K names.
        colors: K colours.
        highlight: whether the bars have another background where the best classes differ.

    Returns:
        (height, width, 3) uint8.
    """
    shown = _widened(enlarged(image, enlargement(image, _SIDE)))
    size = shown.shape[:2]
    differs = highlight and top1_differs(list(predictions.values()))
    background = _HIGHLIGHT if differs else _PANEL
    columns = [Column("image", shown, "" if label is None else f"class: {class_names[label]}")]
    for name, ranking in predictions.items():
        bars = draw_bars(ranking, size, class_names, colors, label, background)
        columns.append(Column(name, bars, rank_note(ranking, label, len(class_names))))
    return side_by_side(columns, [])


def rank_note(ranking: Ranking, label: int | None, num_classes: int) -> str:
    """Write as a caption which place the right class has.

    Args:
        ranking: the best classes.
        label: the right class, if it is known.
        num_classes: K.
    """
    if label is None:
        return ""
    if label not in ranking.classes:
        return f"wrong, not in the best {len(ranking.classes)} of {num_classes}"
    place = list(ranking.classes).index(label) + 1
    return "right" if place == 1 else f"wrong, place {place} of {num_classes}"


def _widened(image: np.ndarray) -> np.ndarray:
    missing = max(0, _SIDE - image.shape[1])
    left = missing // 2
    return np.pad(image, ((0, 0), (left, missing - left), (0, 0)), constant_values=255)


def _shortened(name: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    short = name
    while text_width(font, short) > room and len(name) > 1:
        name = name[:-1]
        short = f"{name}..."
    return short
