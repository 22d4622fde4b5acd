# SPDX-License-Identifier: Apache-2.0
"""Label maps in the colours of their classes.

Shapes: K classes, (H, W) image size. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Sequence

import numpy as np

Color = Sequence[int]

# Share of the class colour in a painted pixel; the rest is the image in grey, whose edges stay
# visible without changing the hue that the legend shows.
_COLOR_SHARE = 0.75


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
