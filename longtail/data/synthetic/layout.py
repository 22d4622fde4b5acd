# SPDX-License-Identifier: Apache-2.0
"""Places of things: objects that hide one another, and stuff that fills what they leave.

Objects are placed from front to back: what a new one shows is what the earlier ones leave of it,
and stays so. Hence areas and presence can be held exactly, in spite of occlusion.

Shapes: H, W height and width of the image, K classes.
"""

import dataclasses

import cv2
import numpy as np

from longtail.data.synthetic.config import MIN_PIXELS, SceneConfig
from longtail.data.synthetic.shapes import SHAPES, draw_shape
from longtail.data.synthetic.textures import smooth_noise

# Attempts to place objects of one class in an image, and to lay out one image.
_OBJECT_TRIES = 120
_LAYOUT_TRIES = 20
# An object that is hidden further than this is placed elsewhere: nobody could name it.
_MIN_VISIBLE = 0.4
# A class whose remaining share of its planned area is below this is done.
_TOLERANCE = 0.08


@dataclasses.dataclass(frozen=True)
class PlacedObject:
    """An object in the image.

    Attributes:
        class_id: its thing class.
        full: (H, W) bool, all of it that is within the image.
        visible: (H, W) bool, the part of ``full`` that no object in front of it hides.
    """

    class_id: int
    full: np.ndarray
    visible: np.ndarray


def place_objects(
    config: SceneConfig,
    areas: np.ndarray,
    rng: np.random.Generator,
    min_object: int = MIN_PIXELS,
) -> list[PlacedObject]:
    """Place objects until each thing class shows about its planned area.

    Args:
        config: the data set.
        areas: (K,) planned shares of the image, 0 for absent classes.
        rng: source of random numbers.
        min_object: the fewest pixels that an object may show.

    Returns:
        Objects from front to back. Each class with a planned area shows at least one.

    Raises:
        ValueError: there is no room for what is planned.
    """
    for _ in range(_LAYOUT_TRIES):
        placed = _try_to_place(config, areas, rng, min_object)
        if placed is not None:
            return placed
    raise ValueError(
        f"no room for the planned objects in an image of {config.image_size}: take a larger "
        "image_size or fewer classes"
    )


def _try_to_place(
    config: SceneConfig, areas: np.ndarray, rng: np.random.Generator, min_object: int
) -> list[PlacedObject] | None:
    height, width = config.image_size
    planned = areas * height * width
    planned[: config.num_stuff] = 0
    planned[planned > 0] = np.maximum(planned[planned > 0], 1.5 * min_object)
    remaining = planned.copy()
    tries = np.zeros(len(areas), dtype=int)
    occupied = np.zeros((height, width), dtype=bool)
    placed = []
    while True:
        open_classes = np.flatnonzero(
            (remaining > np.maximum(_TOLERANCE * planned, min_object)) & (tries < _OBJECT_TRIES)
        )
        if not len(open_classes):
            break
        class_id = int(rng.choice(open_classes))
        tries[class_id] += 1
        # The rarer the room becomes, the smaller the objects that are tried.
        largest = remaining[class_id] * (1 - 0.9 * tries[class_id] / _OBJECT_TRIES)
        full = _random_object(config, class_id, (min_object, largest), rng)
        visible = full & ~occupied
        shown = int(visible.sum())
        if shown < max(min_object, _MIN_VISIBLE * full.sum()):
            continue
        occupied |= full
        remaining[class_id] -= shown
        placed.append(PlacedObject(class_id, full, visible))
    if np.any((planned > 0) & (remaining == planned)):
        return None
    return placed


def _random_object(
    config: SceneConfig, class_id: int, limits: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """(H, W) bool mask of one object of about ``limits`` pixels, centred in the image."""
    height, width = config.image_size
    shape = SHAPES[config.thing_parts(class_id)[0]]
    area = height * width * shape.max_area * rng.uniform(0.3, 1) ** 1.5
    mask = draw_shape(shape, max(min(area, limits[1]), limits[0]), config.image_size, rng)
    return centered_mask(mask, int(rng.integers(height)), int(rng.integers(width)), (height, width))


def centered_mask(mask: np.ndarray, y: int, x: int, image_size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: a tight (h, w) mask with its center at a pixel, cut off at the image's edges."""
    height, width = image_size
    top, left = y - mask.shape[0] // 2, x - mask.shape[1] // 2
    canvas = np.zeros((height, width), dtype=bool)
    rows = slice(max(top, 0), min(top + mask.shape[0], height))
    columns = slice(max(left, 0), min(left + mask.shape[1], width))
    canvas[rows, columns] = mask[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    return canvas


def fill_with_stuff(
    config: SceneConfig, areas: np.ndarray, free: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Divide the canvas into stuff with irregular borders.

    Args:
        config: the data set.
        areas: (K,) planned shares of the image; only the ratios of stuff classes matter.
        free: (H, W) bool, pixels that no object hides: the planned ratios hold among these.
        rng: source of random numbers.

    Returns:
        (H, W) uint8 of stuff class ids, also behind objects.
    """
    height, width = free.shape
    classes = np.flatnonzero(areas[: config.num_stuff])
    shares = areas[classes] / areas[classes].sum()
    shares = np.maximum(shares, 2 * MIN_PIXELS / max(free.sum(), 1))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    stuff = np.full(free.shape, classes[-1], dtype=np.uint8)
    open_pixels = np.ones(free.shape, dtype=bool)
    left = 1.0
    for class_id, share in list(zip(classes, shares, strict=True))[:-1]:
        angle = rng.uniform(0, 2 * np.pi)
        size = min(height, width)
        preference = smooth_noise(free.shape, size / 3, rng) + 1.2 * (
            np.cos(angle) * x + np.sin(angle) * y
        )
        preference += 0.12 * smooth_noise(free.shape, size / 16, rng)
        # The pixels that like the class best become it, exactly as many as planned.
        candidates = preference[open_pixels & free]
        threshold = np.quantile(candidates, 1 - min(share / left, 1))
        taken = open_pixels & (preference >= threshold)
        stuff[taken] = class_id
        open_pixels &= ~taken
        left -= share
    return stuff


def ignored_border(labels: np.ndarray, config: SceneConfig, rng: np.random.Generator) -> np.ndarray:
    """Pixels along some of the borders that annotators would leave unlabelled.

    Args:
        labels: (H, W) unsigned class ids.
        config: the data set.
        rng: source of random numbers.

    Returns:
        (H, W) bool, a few per cent of the pixels; no class drops below ``MIN_PIXELS`` by it.
    """
    kernel = np.ones((3, 3), dtype=np.uint8)
    border = cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)
    ignored = border & (smooth_noise(labels.shape, min(labels.shape) / 6, rng) > 0.6)
    kept = np.bincount(labels[~ignored], minlength=config.num_classes)
    return ignored & (kept >= MIN_PIXELS)[labels]
