# SPDX-License-Identifier: Apache-2.0
"""Boxes and masks of an image, its ground truth and predictions side by side.

detectron2's ``Visualizer`` is not used: it draws boxes half transparent, so that a class has no one
colour, and names in other colours than the boxes.

Shapes: N objects, K classes, (H, W) image size. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longtail.visualization.differences import matched, unmatched
from longtail.visualization.layout import (
    Column,
    enlarged,
    enlargement,
    side_by_side,
    text_width,
)
from longtail.visualization.painting import Color
from longtail.visualization.predictions import Objects

# Share of the class colour where a mask is.
_MASK_SHARE = 0.5
# Smaller images are enlarged, so that names do not hide what they are of.
_SIDE = 512
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)


def draw_objects(
    image: np.ndarray,
    objects: Objects,
    class_names: Sequence[str],
    colors: Sequence[Color],
    strong: np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes, masks, names and scores on an image; small objects over large ones.

    Args:
        image: (H, W, 3) uint8.
        objects: N objects.
        class_names: K names.
        colors: K colours; a box is in that of its class, without shades.
        strong: (N,) bool; of others there is a thin box alone. By default all.

    Returns:
        (H', W', 3) uint8, small images enlarged.
    """
    times = enlargement(image, _SIDE)
    strong = np.ones(len(objects), bool) if strong is None else strong
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    # Weak ones first, they are to hide nothing.
    order = np.lexsort((-sides.prod(axis=1), strong))
    picture = image.astype(np.float64)
    for index in order[strong[order]]:
        mask = objects.mask(index)
        if mask is not None:
            color = np.asarray(colors[objects.classes[index]], np.float64)
            picture[mask] = (1 - _MASK_SHARE) * picture[mask] + _MASK_SHARE * color
    canvas = Image.fromarray(enlarged(np.rint(picture).astype(np.uint8), times))
    draw = ImageDraw.Draw(canvas)
    thick = max(2, min(canvas.size) // 200)
    corners = np.rint(times * objects.boxes).astype(int)
    # A box holds the pixels before its lower right corner.
    corners[:, 2:] -= 1
    # Edges outside of the image are drawn along its border.
    corners = corners.clip(0, np.tile(canvas.size, 2) - 1)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])
    for index in order:
        color = tuple(colors[objects.classes[index]])
        draw.rectangle(corners[index].tolist(), None, color, thick if strong[index] else 1)
    names = _Names(canvas)
    for index in order[strong[order]]:
        name = class_names[objects.classes[index]]
        if objects.scores is not None:
            name += f" {100 * objects.scores[index]:.0f}%"
        names.write(name, corners[index], colors[objects.classes[index]])
    return np.asarray(canvas)


def comparison_of_objects(
    image: np.ndarray,
    target: Objects | None,
    predictions: Mapping[str, Objects],
    class_names: Sequence[str],
    colors: Sequence[Color],
    *,
    highlight: bool = False,
) -> np.ndarray:
    """Draw image, ground truth and predictions side by side, with what was found and a legend.

    Args:
        image: (H, W, 3) uint8.
        target: its objects, if they are known.
        predictions: objects by the name of their column.
        class_names: K names.
        colors: K colours.
        highlight: whether predictions that all columns have are drawn as thin boxes alone.

    Returns:
        (height, width, 3) uint8. The legend lists the classes of all columns, the ones with most
        objects first.
    """
    strong = dict(zip(predictions, unmatched(list(predictions.values())), strict=True))
    columns = [Column("image", enlarged(image, enlargement(image, _SIDE)))]
    truth = {} if target is None else {"ground truth": target}
    for name, objects in [*truth.items(), *predictions.items()]:
        which = strong[name] if highlight and objects is predictions.get(name) else None
        picture = draw_objects(image, objects, class_names, colors, which)
        note = found_note(objects, None if objects is target else target)
        columns.append(Column(name, picture, note))
    classes = [objects.classes for objects in (*truth.values(), *predictions.values())]
    number = np.bincount(np.concatenate(classes), minlength=len(colors))
    present = [k for k in np.argsort(-number, kind="stable") if number[k]]
    return side_by_side(columns, [(class_names[k], colors[k]) for k in present])


def found_note(objects: Objects, target: Objects | None) -> str:
    """Write how many objects were found, see :func:`~.differences.matched`, as a caption.

    Args:
        objects: predictions.
        target: the ground truth, if it is known.

    Returns:
        Such as ``"found 3 of 5, 2 others"``; others may be objects that are not annotated.
    """
    if target is None:
        return f"{len(objects)} object{'s' * (len(objects) != 1)}"
    found = int(matched(objects, target).sum())
    others = len(objects) - found
    return f"found {found} of {len(target)}, {others} other{'s' * (others != 1)}"


class _Names:
    """Names on the colours of their boxes, where there is room."""

    def __init__(self, canvas: Image.Image) -> None:
        self._draw, self._size = ImageDraw.Draw(canvas), canvas.size
        self._font = ImageFont.load_default(max(11, min(canvas.size) // 36))
        self._taken: list[tuple[int, int, int, int]] = []

    def write(self, name: str, corners: np.ndarray, color: Color) -> None:
        """Write above the box, otherwise inside of it or below, if there only is no other name."""
        width, height = text_width(self._font, name) + 4, sum(self._font.getmetrics())
        left = max(0, min(int(corners[0]), self._size[0] - width))
        tops = int(corners[1]) - height, int(corners[1]), int(corners[3]) + 1
        places = [
            (left, top, left + width - 1, top + height - 1)
            for top in tops
            if 0 <= top <= self._size[1] - height
        ] or [(left, 0, left + width - 1, height - 1)]
        free = (place for place in places if not any(_overlap(place, o) for o in self._taken))
        box = next(free, places[0])
        self._taken.append(box)
        # As bright as the eye sees it (ITU-R BT.601).
        ink = _DARK if np.dot(color, (0.299, 0.587, 0.114)) > 127 else _LIGHT
        self._draw.rectangle(box, tuple(color))
        self._draw.text((left + 2, box[1]), name, ink, self._font)


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return all(one[i] <= other[i + 2] and other[i] <= one[i + 2] for i in (0, 1))
