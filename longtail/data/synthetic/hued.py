# SPDX-License-Identifier: Apache-2.0
"""Scenes with several hundred categories: a shape, a texture and a hue each.

Shapes: N images, K classes: S of stuff, and T = K - S categories of things.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from longtail.data.formats.generated import (
    HUED_NUM_CATEGORIES,
    HUES,
    SHAPES,
    SPLITS,
    STUFF,
    TEXTURES,
    hued_classes,
    hued_parts,
)
from longtail.data.synthetic.config import MIN_SIDE
from longtail.data.synthetic.plan import draw_presence, plan_generator

MIN_CATEGORIES = 2
MAX_CATEGORIES = len(HUES) * len(SHAPES) * len(TEXTURES)
# Kinds of ground that an image has; which ones, is drawn.
STUFF_PER_IMAGE = 2


@dataclasses.dataclass(frozen=True)
class HuedConfig:
    r"""Description of generated scenes with T categories, sorted by falling frequency.

    Of N images

    .. math::

        n_c = \mathrm{round}\left(N s \cdot \mathrm{IF}^{-c / (T - 1)}\right)

    contain category c, and at least one (train) or ``min_val_images`` (val). With as many
    categories as LVIS has, the most frequent one cannot be in nearly every image, as in
    :class:`~longtail.data.synthetic.SyntheticConfig`: there would be dozens of objects in each.

    Attributes:
        num_categories: T, from 2 to 448.
        image_size: (height, width) in pixels, each at least 48.
        share: s, of the images that contain the most frequent category, above 0 and up to 1.
        imbalance: IF, at least 1.
        seed: non-negative; the same seed gives the same files.
        min_val_images: fewest images of val with a category.

    Raises:
        ValueError: a value is out of its range.
    """

    num_categories: int = HUED_NUM_CATEGORIES
    image_size: tuple[int, int] = (192, 192)
    share: float = 0.08
    imbalance: float = 192.0
    seed: int = 0
    min_val_images: int = 6

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if not MIN_CATEGORIES <= self.num_categories <= MAX_CATEGORIES:
            raise ValueError(
                f"num_categories must be from {MIN_CATEGORIES} to {MAX_CATEGORIES}, got "
                f"{self.num_categories}"
            )
        if len(self.image_size) != 2 or min(self.image_size) < MIN_SIDE:
            raise ValueError(
                f"image_size must be (height, width) with at least {MIN_SIDE} pixels each, "
                f"got {self.image_size}"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(f"imbalance must be at least 1, got {self.imbalance}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.min_val_images < 1:
            raise ValueError(f"min_val_images must be at least 1, got {self.min_val_images}")

    @property
    def num_stuff(self) -> int:
        """S, always all kinds of ground; they are the classes 0 to S - 1."""
        return len(STUFF)

    @property
    def num_classes(self) -> int:
        """K = S + T."""
        return self.num_stuff + self.num_categories

    @property
    def class_names(self) -> list[str]:
        """K names, for instance ``"brick"`` (stuff) and ``"red-disk-striped"`` (thing)."""
        return [*STUFF, *hued_classes(self.num_categories)]

    def thing_parts(self, class_id: int) -> tuple[str, str]:
        """Shape and texture of a thing class, see :func:`.generated.hued_parts`.

        Args:
            class_id: from S to K - 1.
        """
        _, shape, texture = hued_parts(class_id - self.num_stuff)
        return shape, texture

    def thing_hue(self, class_id: int) -> str:
        """Hue of a thing class.

        Args:
            class_id: from S to K - 1.
        """
        return hued_parts(class_id - self.num_stuff)[0]

    def to_dict(self) -> dict[str, Any]:
        """The fields as they stand in ``meta.json``."""
        return {**dataclasses.asdict(self), "image_size": list(self.image_size)}

    def image_counts(self, num_images: int, split: str) -> np.ndarray:
        """(T,) n_c, the images with each category.

        Args:
            num_images: N.
            split: ``"train"`` or ``"val"``.

        Raises:
            ValueError: N is too small for a category to be in as many images as it has to.
        """
        floor = 1 if split == SPLITS[0] else self.min_val_images
        if num_images < floor:
            raise ValueError(
                f"{num_images} images of {split} are too few: each category shall be in at least "
                f"{floor} of them; make more images"
            )
        position = np.arange(self.num_categories) / (self.num_categories - 1)
        counts = np.rint(num_images * self.share * float(self.imbalance) ** -position)
        return np.maximum(counts.astype(np.int64), floor)


def plan_hued_split(config: HuedConfig, num_images: int, split: str) -> np.ndarray:
    """Draw what is in each image.

    Image counts are exact: category c has n_c non-zero entries.

    Args:
        config: the data set.
        num_images: N.
        split: ``"train"`` or ``"val"``.

    Returns:
        (N, K) float64: the shares that stuff divides the ground by, and 1 where a category is
        present; 0 where something is absent.

    Raises:
        ValueError: N is too small, see :meth:`HuedConfig.image_counts`.
    """
    counts = config.image_counts(num_images, split)
    rng = plan_generator(config, split)
    things = draw_presence(counts, num_images, rng).astype(np.float64)
    weights = rng.uniform(0.2, 1, (num_images, config.num_stuff))
    order = rng.random(weights.shape).argsort(axis=1)
    stuff = np.where(order < STUFF_PER_IMAGE, weights, 0)
    return np.concatenate([stuff / stuff.sum(axis=1, keepdims=True), things], axis=1)
