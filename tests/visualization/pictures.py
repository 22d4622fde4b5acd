# SPDX-License-Identifier: Apache-2.0
"""Random images and label maps, and where a picture shows them."""

import numpy as np

COLORS = [(200, 10, 20), (30, 190, 40), (50, 60, 180)]
NAMES = ["wall", "tree", "bus"]
IGNORED = 255


def random_image(seed: int = 0, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def random_labels(seed: int = 1, size: tuple[int, int] = (24, 40)) -> np.ndarray:
    values = np.array([0, 1, 2, IGNORED], np.uint8)
    return np.random.default_rng(seed).choice(values, size)


def positions(picture: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of every place where ``part`` is in ``picture``, pixel by pixel."""
    height, width, _ = part.shape
    starts = (picture == part[0, 0]).all(axis=2)
    return [
        (int(y), int(x))
        for y, x in np.argwhere(starts)
        if np.array_equal(picture[y : y + height, x : x + width], part)
    ]
