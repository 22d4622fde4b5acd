# SPDX-License-Identifier: Apache-2.0
"""One generated image with its labels and object masks.

Shapes: H, W height and width of the image in pixels, K classes, S stuff classes.
"""

import colorsys
import dataclasses

import cv2
import numpy as np

from longtail.data.formats.generated import HUES
from longtail.data.synthetic.config import MIN_PIXELS, SceneConfig
from longtail.data.synthetic.layout import (
    PlacedObject,
    fill_with_stuff,
    ignored_border,
    place_objects,
)
from longtail.data.synthetic.textures import (
    STUFF_TEXTURES,
    THING_TEXTURES,
    smooth_noise,
    texture_field,
)

IGNORE_LABEL = 255
# Periods of the objects' textures, as share of the image's side.
PERIODS = (0.035, 0.055)


@dataclasses.dataclass(frozen=True)
class Instance:
    """One object of a thing class.

    Attributes:
        class_id: from S to K - 1.
        mask: (H, W) bool, the visible part (which may lie in ignored pixels of ``sem_seg``).
        full_area: pixels within the image that it would cover if nothing hid it;
            larger than ``mask.sum()`` where it is occluded.
    """

    class_id: int
    mask: np.ndarray
    full_area: int


@dataclasses.dataclass(frozen=True)
class Scene:
    """A generated image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        sem_seg: (H, W) uint8 of class ids 0 to K - 1 and ``IGNORE_LABEL``; of more than 255 classes
            uint16, with its largest number instead.
        instances: the objects from front to back; their masks do not overlap.
    """

    image: np.ndarray
    sem_seg: np.ndarray
    instances: list[Instance]


def generate_scene(
    config: SceneConfig,
    areas: np.ndarray,
    rng: np.random.Generator,
    min_object: int = MIN_PIXELS,
) -> Scene:
    """Draw one scene.

    Args:
        config: the data set.
        areas: (K,) share of the image that each class shall cover, 0 where absent, for instance a
            row of :func:`~longtail.data.synthetic.plan_split`; at least one stuff class
            must be present.
        rng: source of random numbers, for instance
            :func:`~longtail.data.synthetic.scene_generator`.
        min_object: the fewest pixels that an object may show.

    Returns:
        A scene that contains exactly the planned classes.

    Raises:
        ValueError: ``areas`` has another length than K or no stuff class, or there is no room.
    """
    areas = np.asarray(areas, dtype=np.float64)
    if areas.shape != (config.num_classes,) or not areas[: config.num_stuff].any():
        raise ValueError(
            f"areas must be {config.num_classes} shares, one of them of a stuff class "
            f"(0 to {config.num_stuff - 1}) above 0; got {areas}"
        )
    objects = place_objects(config, areas, rng, min_object)
    hidden = np.zeros(config.image_size, dtype=bool)
    for item in objects:
        hidden |= item.visible
    labels = fill_with_stuff(config, areas, ~hidden, rng)
    image = _render(config, labels, objects, rng)
    if config.num_classes > IGNORE_LABEL:
        labels = labels.astype(np.uint16)
    for item in objects:
        labels[item.visible] = item.class_id
    ignored = ignored_border(labels, config, rng)
    instances = [Instance(item.class_id, item.visible, int(item.full.sum())) for item in objects]
    labels[ignored] = np.iinfo(labels.dtype).max
    return Scene(image, labels, instances)


def _render(
    config: SceneConfig,
    stuff: np.ndarray,
    objects: list[PlacedObject],
    rng: np.random.Generator,
) -> np.ndarray:
    """Paint stuff, then objects from back to front with their shadows; then light and camera."""
    canvas = np.zeros((*stuff.shape, 3), dtype=np.float32)
    light = rng.uniform(0, 2 * np.pi)
    side = min(stuff.shape)
    for class_id in np.unique(stuff):
        texture = STUFF_TEXTURES[config.class_names[class_id]]
        period = side * rng.uniform(0.055, 0.1)
        grey = texture_field(texture, stuff.shape, period, rng.uniform(-0.3, 0.3), rng)
        inside = stuff == class_id
        canvas[inside] = colorize(grey, rng)[inside]
    for item in reversed(objects):
        texture = config.thing_parts(item.class_id)[1]
        hue = config.thing_hue(item.class_id)
        paint_object(canvas, item.full, texture, light, rng, hue=hue)
    return photograph(canvas, light, rng)


def paint_object(
    canvas: np.ndarray,
    mask: np.ndarray,
    texture: str,
    light: float,
    rng: np.random.Generator,
    periods: tuple[float, float] = PERIODS,
    hue: str | None = None,
) -> None:
    """Paint an object onto ``canvas`` in place, with a shadow away from the light.

    Args:
        canvas: (H, W, 3) float32 in [0, 1], RGB.
        mask: (H, W) bool, the object.
        texture: a key of ``THING_TEXTURES``.
        light: the direction that light comes from, in radians.
        rng: source of random numbers.
        periods: smallest and largest period of the texture, as share of the image's side.
        hue: one of ``HUES``; drawn if None, as everything else about the colors is.
    """
    side = min(canvas.shape[:2])
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    margin = int(0.04 * side) + 1
    top, left = max(y - margin, 0), max(x - margin, 0)
    crop = (slice(top, y + height + margin), slice(left, x + width + margin))
    mask, target = mask[crop], canvas[crop]
    shift = np.float32([[1, 0, np.cos(light)], [0, 1, np.sin(light)]])
    shift[:, 2] *= -0.015 * side
    shadow = cv2.warpAffine(mask.astype(np.float32), shift, mask.shape[::-1])
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.01 * side)
    target *= 1 - rng.uniform(0.2, 0.5) * shadow[..., None]
    period = side * rng.uniform(*periods)
    angle = rng.uniform(0, 2 * np.pi)
    grey = texture_field(THING_TEXTURES[texture], mask.shape, period, angle, rng)
    colors = colorize(grey, rng, hue) * _gradient(mask.shape, light, 0.25)[..., None]
    target[mask] = colors[mask]


def colorize(grey: np.ndarray, rng: np.random.Generator, name: str | None = None) -> np.ndarray:
    """Blend two colours of clearly different brightness: (h, w) -> (h, w, 3) in [0, 1].

    Args:
        grey: in [0, 1], how much of the second colour.
        rng: source of random numbers.
        name: the hue, one of ``HUES``; drawn if None.
    """
    if name is None:
        hue, saturation, spread = rng.uniform(), rng.uniform(0.1, 0.75), 0.07
    else:
        # Far below half the distance to the next one, and never grey.
        hue, saturation, spread = HUES.index(name) / len(HUES), rng.uniform(0.55, 0.85), 0.015
    contrast = rng.uniform(0.25, 0.6)
    dark = rng.uniform(0.1, 0.95 - contrast)
    pair = [
        colorsys.hsv_to_rgb((hue + rng.normal(0, spread)) % 1, saturation, value)
        for value in (dark, dark + contrast)
    ]
    # Which of the two is the ground colour must not give the class away either.
    first, second = np.float32(pair if rng.random() < 0.5 else pair[::-1])
    return first + grey[..., None] * (second - first)


def _gradient(shape: tuple[int, int], light: float, strength: float) -> np.ndarray:
    """(h, w) float32 from 1 - strength to 1 + strength, brightest towards ``light`` (radians)."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    return 1 + strength * np.float32(0.7) * (np.cos(light) * x + np.sin(light) * y).astype(
        np.float32
    )


def photograph(canvas: np.ndarray, light: float, rng: np.random.Generator) -> np.ndarray:
    """Uneven light, blur and sensor noise: float RGB in [0, 1] -> uint8 RGB."""
    shape = canvas.shape[:2]
    shade = _gradient(shape, light, rng.uniform(0.1, 0.4))
    shade *= 1 + 0.12 * smooth_noise(shape, min(shape) / 3, rng)
    canvas = canvas * (shade * rng.uniform(0.8, 1.15))[..., None]
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.9))
    canvas += rng.uniform(0.01, 0.04) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
