# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: grey fields in [0, 1] that tell classes apart without any colour.

Shapes: h, w height and width in pixels; a *period* is the length of one repetition in pixels.
"""

from collections.abc import Callable

import cv2
import numpy as np

Texture = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]


def smooth_noise(
    shape: tuple[int, int], cell: float | tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise without structure below ``cell``.

    Args:
        shape: (h, w).
        cell: typical size of a bump in pixels, or (vertical, horizontal) sizes.
        rng: source of random numbers.

    Returns:
        (h, w) float32, mean about 0, standard deviation somewhat below 1.
    """
    cells = cell if isinstance(cell, tuple) else (cell, cell)
    height, width = (int(np.ceil(side / size)) + 3 for side, size in zip(shape, cells, strict=True))
    coarse = rng.standard_normal((height, width), dtype=np.float32)
    full = (max(shape[1], round(width * cells[1])), max(shape[0], round(height * cells[0])))
    # The outer cells are cut off: resizing repeats the border there.
    top, left = (full[1] - shape[0]) // 2, (full[0] - shape[1]) // 2
    fine = cv2.resize(coarse, full, interpolation=cv2.INTER_CUBIC)
    return fine[top : top + shape[0], left : left + shape[1]]


def texture_field(
    texture: Texture,
    shape: tuple[int, int],
    period: float,
    angle: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Evaluate a texture on a grid of pixels.

    Args:
        texture: a value of ``STUFF_TEXTURES`` or ``THING_TEXTURES``.
        shape: (h, w).
        period: length of one repetition in pixels.
        angle: rotation in radians.
        rng: source of random numbers.

    Returns:
        (h, w) float32 in [0, 1].
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    phase_u, phase_v = rng.uniform(0, 100, 2).astype(np.float32)
    u = (x * cos + y * sin) / np.float32(period) + phase_u
    v = (y * cos - x * sin) / np.float32(period) + phase_v
    return np.clip(texture(u, v, period, rng), 0, 1).astype(np.float32)


def _wave(t: np.ndarray, sharpness: float = 2.5) -> np.ndarray:
    """Soft square wave of period 1 in [0, 1]."""
    return np.clip(0.5 + sharpness * 0.5 * np.sin(2 * np.pi * t), 0, 1)


def _fraction(t: np.ndarray) -> np.ndarray:
    return t - np.floor(t)


def _triangle(t: np.ndarray) -> np.ndarray:
    return np.abs(2 * _fraction(t) - 1)


def _cells(shape: tuple[int, int], cell: float, rng: np.random.Generator) -> tuple:
    """Voronoi cells: distance to the nearest seed in cell sizes, and a random grey a cell."""
    count = max(2, round(1.3 * shape[0] * shape[1] / cell**2))
    free = np.full(shape, 255, dtype=np.uint8)
    free[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
    distance, label = cv2.distanceTransformWithLabels(
        free, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    return distance / cell, rng.random(count + 1, dtype=np.float32)[label]


def _lattice_grey(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random grey for every unit square of the (u, v) plane."""
    table = rng.random((61, 61), dtype=np.float32)
    return table[np.floor(v).astype(int) % 61, np.floor(u).astype(int) % 61]


# Stuff.


def _brick(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    u = u / 2 + 0.5 * (np.floor(v) % 2)
    mortar = (_fraction(v) < 0.16) | (_fraction(u) < 0.09)
    return np.where(mortar, 1.0, 0.15 + 0.4 * _lattice_grey(u, v, rng))


def _water(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    bend = smooth_noise(u.shape, (1.2 * period, 4 * period), rng)
    return 0.5 + 0.35 * np.sin(2 * np.pi * (0.8 * v + 0.7 * bend)) + 0.12 * bend


def _grass(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    blades = smooth_noise(u.shape, (0.8 * period, 0.16 * period), rng)
    return 0.5 + 0.32 * blades + 0.12 * smooth_noise(u.shape, 3 * period, rng)


def _gravel(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    distance, grey = _cells(u.shape, 0.9 * period, rng)
    return (0.25 + 0.75 * grey) * (1.1 - 1.1 * distance)


def _cloud(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    octaves = (smooth_noise(u.shape, 3 * period / 2**i, rng) / 1.6**i for i in range(3))
    return 0.5 + 0.25 * sum(octaves)


def _wood(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    grain = smooth_noise(u.shape, (1.5 * period, 9 * period), rng)
    return 0.25 + 0.6 * _fraction(0.8 * v + 0.9 * grain) + 0.1 * grain


def _tiles(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    u, v = u / 1.3, v / 1.3
    grout = (_fraction(u) < 0.1) | (_fraction(v) < 0.1)
    return np.where(grout, 0.05, 0.5 + 0.45 * _lattice_grey(u, v, rng))


def _sand(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    grains = rng.standard_normal(u.shape, dtype=np.float32)
    return 0.5 + 0.2 * grains + 0.15 * smooth_noise(u.shape, 2 * period, rng)


# Things.


def _striped(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return _wave(v)


def _checked(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(0.5 + 2 * np.sin(np.pi * u) * np.sin(np.pi * v), 0, 1)


def _zigzag(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return _wave(v + 0.9 * _triangle(u / 1.6))


def _meshed(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(4.2 * (np.maximum(_triangle(u), _triangle(v)) - 0.68), 0, 1)


def _marbled(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    bend = smooth_noise(u.shape, 1.6 * period, rng)
    return np.abs(np.sin(np.pi * (0.3 * v + 0.9 * bend))) ** 0.6


def _plain(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.12 * smooth_noise(u.shape, 2 * period, rng)


def _scaly(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    u = u + 0.5 * (np.floor(v) % 2)
    radius = np.hypot(_fraction(u) - 0.5, _fraction(v))
    return np.clip(1.25 - 1.25 * radius, 0, 1) ** 1.3


def _dotted(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    radius = np.hypot(_fraction(u) - 0.5, _fraction(v) - 0.5)
    return np.clip((0.36 - radius) * 8, 0, 1)


STUFF_TEXTURES: dict[str, Texture] = {
    "brick": _brick,
    "water": _water,
    "grass": _grass,
    "gravel": _gravel,
    "cloud": _cloud,
    "wood": _wood,
    "tiles": _tiles,
    "sand": _sand,
}

THING_TEXTURES: dict[str, Texture] = {
    "striped": _striped,
    "checked": _checked,
    "zigzag": _zigzag,
    "meshed": _meshed,
    "marbled": _marbled,
    "plain": _plain,
    "scaly": _scaly,
    "dotted": _dotted,
}
