# SPDX-License-Identifier: Apache-2.0
"""Outlines of the objects: compact ones, thin ones (pole, wire, ring) and small ones (pebble).

An outline is a list of polygons, each (P, 2) float64 of x, y in pixels around the origin; a pixel
inside an even number of them (the hole of a ring) is outside.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

# cv2.fillPoly takes fixed-point coordinates with this many fractional bits.
_SHIFT = 4


@dataclasses.dataclass(frozen=True)
class Shape:
    """One kind of object.

    Attributes:
        outline: function (area in pixels, width in pixels, rng) -> list of (P, 2) polygons.
        max_area: the largest object, as share of the image.
    """

    outline: Callable[[float, float, np.random.Generator], list[np.ndarray]]
    max_area: float


def draw_shape(
    shape: Shape, area: float, image_size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Draw one object with a random orientation and aspect ratio.

    Args:
        shape: a value of ``SHAPES``.
        area: number of pixels that the object covers, about.
        image_size: (H, W) of the image: thin objects are a fixed share of it wide.
        rng: source of random numbers.

    Returns:
        (h, w) bool mask, as tight as the object.
    """
    width = max(3.0, min(image_size) * rng.uniform(0.026, 0.04))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    polygons = [polygon @ turn for polygon in shape.outline(area, width, rng)]
    corner = np.min([polygon.min(axis=0) for polygon in polygons], axis=0)
    extent = np.max([polygon.max(axis=0) for polygon in polygons], axis=0) - corner
    mask = np.zeros(np.ceil(extent[::-1]).astype(int) + 1, dtype=np.uint8)
    fixed = [np.rint((polygon - corner) * 2**_SHIFT).astype(np.int32) for polygon in polygons]
    cv2.fillPoly(mask, fixed, 1, shift=_SHIFT)
    return mask.astype(bool)


def _circle(radius: float | np.ndarray, points: int = 40) -> np.ndarray:
    """Polygon at distance ``radius`` (one number, or one a point) from the origin."""
    angle = np.arange(points) * 2 * np.pi / points
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _scaled(polygons: list[np.ndarray], area: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Stretch by a random aspect ratio and scale to ``area``; polygon 2 is a hole in polygon 1."""
    parts = [cv2.contourArea(polygon.astype(np.float32)) for polygon in polygons]
    scale = np.sqrt(area / (parts[0] - sum(parts[1:])))
    aspect = np.exp(rng.uniform(-0.2, 0.2))
    return [polygon * scale * [aspect, 1 / aspect] for polygon in polygons]


def _disk(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    return _scaled([_circle(1.0)], area, rng)


def _ring(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    return _scaled([_circle(1.0), _circle(rng.uniform(0.6, 0.75))], area, rng)


def _box(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    return _scaled([_circle(1.0, points=4)], area, rng)


def _star(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    points = 2 * int(rng.integers(5, 8))
    radius = np.where(np.arange(points) % 2, rng.uniform(0.4, 0.55), 1.0)
    return _scaled([_circle(radius, points)], area, rng)


def _crescent(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    # The outer half circle, and back along a flatter arc.
    angle = np.linspace(-np.pi / 2, np.pi / 2, 24) * 1.2
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    depth = rng.uniform(0.25, 0.45)
    inner = np.stack(
        [outer[:, 0] - (outer[:, 0] - outer[0, 0]) * depth, outer[:, 1] * 0.94], axis=1
    )
    return _scaled([np.concatenate([outer, inner[::-1] - [0.12, 0]])], area, rng)


def _pebble(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    bumps = 1 + 0.25 * np.repeat(rng.uniform(-1, 1, 6), 2)
    return _scaled([_circle(bumps, points=12)], area, rng)


def _pole(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    length = max(area / width, width)
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    return [corners * [length, width]]


def _wire(area: float, width: float, rng: np.random.Generator) -> list[np.ndarray]:
    """A waving line of constant width; the wave is gentle enough not to cross itself."""
    length = max(area / (1.15 * width), width)
    x = np.linspace(-0.5, 0.5, 48) * length
    wavelength = rng.uniform(8, 14) * width
    phase = rng.uniform(0, 2 * np.pi)
    height = 0.12 * wavelength
    y = height * np.sin(2 * np.pi * x / wavelength + phase)
    slope = 2 * np.pi * height / wavelength * np.cos(2 * np.pi * x / wavelength + phase)
    normal = np.stack([-slope, np.ones_like(slope)], axis=1) / np.hypot(slope, 1)[:, None]
    line = np.stack([x, y], axis=1)
    return [np.concatenate([line + normal * width / 2, (line - normal * width / 2)[::-1]])]


SHAPES: dict[str, Shape] = {
    "disk": Shape(_disk, max_area=0.08),
    "pole": Shape(_pole, max_area=0.025),
    "ring": Shape(_ring, max_area=0.06),
    "box": Shape(_box, max_area=0.08),
    "star": Shape(_star, max_area=0.07),
    "wire": Shape(_wire, max_area=0.03),
    "crescent": Shape(_crescent, max_area=0.05),
    "pebble": Shape(_pebble, max_area=0.007),
}
