# SPDX-License-Identifier: Apache-2.0
"""The description of a generated data set, and the classes that follow from it."""

import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from longtail.data.formats.generated import (
    NUM_CLASSES,
    SHAPES,
    STUFF,
    TEXTURES,
    num_stuff,
    object_parts,
    scene_classes,
)
from longtail.data.statistics.groups import thirds_by_rank

# A class that an image is planned to contain keeps at least this many labelled pixels in it.
MIN_PIXELS = 24
# Objects beyond this share of an image would leave no room to place them at random.
MAX_THING_SHARE = 0.6
MIN_SIDE = 48
MIN_CLASSES = 4
MAX_CLASSES = len(STUFF) + len(SHAPES) * len(TEXTURES)


class SceneConfig(Protocol):
    """Facts of a data set of scenes that drawing needs: K classes, the first S of them stuff."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    @property
    def seed(self) -> int:
        """Non-negative; the same seed gives the same files."""

    @property
    def num_classes(self) -> int:
        """K."""

    @property
    def num_stuff(self) -> int:
        """S."""

    @property
    def class_names(self) -> list[str]:
        """K names; those of stuff are its textures."""

    def thing_parts(self, class_id: int) -> tuple[str, str]:
        """Shape and texture of a thing class."""

    def thing_hue(self, class_id: int) -> str | None:
        """One of ``HUES`` if a thing class has one, None if hues are drawn anew for each object."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as they stand in ``meta.json``."""


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    r"""Description of a generated data set with K classes, sorted by falling frequency.

    The training split follows two exponential laws: of N images, n_c contain class c, in which its
    mean area is A_c pixels,

    .. math::

        n_c = \mathrm{round}\left(N \cdot \mathrm{RIF}^{-c / (K - 1)}\right), \qquad
        A_c = A_0 \left(\frac{\mathrm{RIF}}{\mathrm{PIF}}\right)^{c / (K - 1)}

    with A_0 chosen such that all classes together fill the images. So the largest image count is
    RIF times the smallest, and the same for pixels and PIF.

    Attributes:
        num_classes: K, from 4 to 72. A fifth of them (2 to 8) are stuff and come first.
        image_size: (height, width) in pixels, each at least 48.
        region_imbalance: RIF, at least 1.
        pixel_imbalance: PIF, at least RIF (rare classes are also the smaller ones).
        seed: non-negative; the same seed gives the same files.
        min_val_images: the validation split has the same law, but every class is in at least this
            many of its images: IoUs of tail classes would otherwise rest on one or two objects.
            (Long-tailed benchmarks such as ImageNet-LT likewise test on a balanced set.)

    Raises:
        ValueError: a value is out of its range, or no such data set can exist.
    """

    num_classes: int = NUM_CLASSES
    image_size: tuple[int, int] = (160, 160)
    region_imbalance: float = 100.0
    pixel_imbalance: float = 300.0
    seed: int = 0
    min_val_images: int = 8

    def __post_init__(self) -> None:
        """Check the values, each and together."""
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if not MIN_CLASSES <= self.num_classes <= MAX_CLASSES:
            raise ValueError(
                f"num_classes must be from {MIN_CLASSES} to {MAX_CLASSES}, got {self.num_classes}"
            )
        if len(self.image_size) != 2 or min(self.image_size) < MIN_SIDE:
            raise ValueError(
                f"image_size must be (height, width) with at least {MIN_SIDE} pixels each, "
                f"got {self.image_size}"
            )
        if not 1 <= self.region_imbalance < math.inf:
            raise ValueError(f"region_imbalance must be at least 1, got {self.region_imbalance}")
        if not self.region_imbalance <= self.pixel_imbalance < math.inf:
            raise ValueError(
                f"pixel_imbalance must be at least region_imbalance ({self.region_imbalance:g}): "
                f"rare classes are not larger than frequent ones; got {self.pixel_imbalance:g}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.min_val_images < 1:
            raise ValueError(f"min_val_images must be at least 1, got {self.min_val_images}")
        self._check_areas()

    def _check_areas(self) -> None:
        pixel_share = self.mean_areas * self.region_imbalance**-self.tail_position
        thing_share = float(pixel_share[self.num_stuff :].sum())
        if thing_share > MAX_THING_SHARE:
            raise ValueError(
                f"pixel_imbalance {self.pixel_imbalance:g} is too small for {self.num_classes} "
                f"classes: objects would cover {thing_share:.0%} of the pixels, at most "
                f"{MAX_THING_SHARE:.0%} can be placed; raise pixel_imbalance"
            )
        height, width = self.image_size
        smallest = float(self.mean_areas[-1]) * height * width
        if smallest < 4 * MIN_PIXELS:
            raise ValueError(
                f"image_size {height}x{width} is too small: the rarest of {self.num_classes} "
                f"classes would have {smallest:.0f} pixels an image, at least {4 * MIN_PIXELS} "
                "are needed; take larger images or a pixel_imbalance closer to region_imbalance"
            )

    @property
    def num_stuff(self) -> int:
        """Number of stuff classes; they are the classes 0 to ``num_stuff - 1``."""
        return num_stuff(self.num_classes)

    @property
    def tail_position(self) -> np.ndarray:
        """(K,) c / (K - 1), from 0 (most frequent class) to 1 (rarest)."""
        return np.arange(self.num_classes) / (self.num_classes - 1)

    @property
    def mean_areas(self) -> np.ndarray:
        """(K,) A_c, the mean share of the image that class c covers where it is present."""
        total = (float(self.pixel_imbalance) ** -self.tail_position).sum()
        return (self.region_imbalance / self.pixel_imbalance) ** self.tail_position / total

    def thing_parts(self, class_id: int) -> tuple[str, str]:
        """Shape and texture of a thing class, see :func:`.generated.object_parts`.

        Args:
            class_id: from ``num_stuff`` to K - 1.
        """
        return object_parts(class_id - self.num_stuff)

    def thing_hue(self, class_id: int) -> None:
        """Objects have no hue of their own."""

    @property
    def class_names(self) -> list[str]:
        """K names, for instance ``"brick"`` (stuff) and ``"ring-zigzag"`` (thing)."""
        return scene_classes(self.num_classes)

    @property
    def class_groups(self) -> dict[str, list[int]]:
        """Class ids of ``head``, ``body`` and ``tail``: thirds of the classes by frequency."""
        return thirds_by_rank(range(self.num_classes))

    def to_dict(self) -> dict[str, Any]:
        """The fields as they stand in ``meta.json``."""
        return {**dataclasses.asdict(self), "image_size": list(self.image_size)}
