# SPDX-License-Identifier: Apache-2.0
"""The colours of classes, and label maps in them.

Shapes: K classes, (H, W) image size. Colours are (red, green, blue), 0..255.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from detectron2.data.catalog import Metadata

from longtail.data.datasets.register import class_colors

Color = Sequence[int]

# Share of the class colour in a painted pixel; the rest is the image in grey, whose edges stay
# visible without changing the hue that the legend shows.
_COLOR_SHARE = 0.75
# Share of white where nothing is to be looked at.
_WHITE_SHARE = 0.75
# Hues a turn of the golden section apart: neighbours, and neighbours' neighbours, are different.
_GOLDEN = (5**0.5 - 1) / 2
_SATURATION_AND_VALUE = ((1.0, 1.0), (0.55, 1.0), (0.9, 0.75))


def stuff_colors(metadata: Metadata) -> list[list[int]]:
    """The K colours of semantic segmentation: those of the data set, or always the same ones."""
    colors = metadata.get("stuff_colors", None)
    return [list(color) for color in colors or class_colors(len(metadata.stuff_classes))]


def thing_colors(metadata: Metadata) -> list[list[int]]:
    """The K colours of objects and images: those of the data set, or always the same bright ones.

    Lines are drawn in them, which dark ones are lost for.
    """
    colors = metadata.get("thing_colors", None)
    if colors and len(colors) >= len(metadata.thing_classes):
        return [list(color) for color in colors]
    return [
        [
            round(255 * part)
            for part in colorsys.hsv_to_rgb(k * _GOLDEN % 1, *_SATURATION_AND_VALUE[k % 3])
        ]
        for k in range(len(metadata.thing_classes))
    ]


def fade(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Fade a picture towards white, except in a region.

    Args:
        picture: (H, W, 3) uint8.
        region: (H, W) bool, where the picture stays.

    Returns:
        (H, W, 3) uint8.
    """
    faded = np.rint(_WHITE_SHARE * 255 + (1 - _WHITE_SHARE) * picture.astype(np.float64))
    return np.where(region[..., None], picture, faded.astype(np.uint8))


def colorize(labels: np.ndarray, colors: Sequence[Color], ignore_label: int = 255) -> np.ndarray:
    """Paint a label map in the colours of its classes.

    Args:
        labels: (H, W) integers, values 0..K-1 or ``ignore_label``.
        colors: K colours.
        ignore_label: pixels with this label become black.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a label is out of range.
    """
    valid = labels != ignore_label
    known = labels[valid].astype(np.int64)
    wrong = known[(known < 0) | (known >= len(colors))]
    if wrong.size:
        raise ValueError(
            f"a label map has the value {wrong[0]}, expected 0..{len(colors) - 1} or "
            f"{ignore_label} (ignored): number its classes as the data set does"
        )
    painted = np.zeros((*labels.shape, 3), np.uint8)
    painted[valid] = np.asarray(colors, np.uint8)[known]
    return painted


def paint(
    image: np.ndarray, labels: np.ndarray, colors: Sequence[Color], ignore_label: int = 255
) -> np.ndarray:
    """Paint a label map over its image, which shines through in grey.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integers, values 0..K-1 or ``ignore_label``.
        colors: K colours.
        ignore_label: pixels with this label become black.

    Returns:
        (H, W, 3) uint8: 3/4 colour and 1/4 grey image, black where ignored.

    Raises:
        ValueError: a label is out of range, or image and labels differ in size.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f"a label map has size {labels.shape[1]}x{labels.shape[0]}, but its image "
            f"{image.shape[1]}x{image.shape[0]} (width x height): give one of the image's size"
        )
    painted = colorize(labels, colors, ignore_label)
    grey = image.mean(axis=2, keepdims=True)
    mixed = np.rint(_COLOR_SHARE * painted + (1 - _COLOR_SHARE) * grey).astype(np.uint8)
    return np.where((labels == ignore_label)[..., None], painted, mixed)
