# SPDX-License-Identifier: Apache-2.0
"""Generated long-tailed images of one object each, for image classification.

root/images/{train,val,test}/synthetic_{train,val,test}_000000.png
root/synthetic_lt_{train,val,test,balanced}.txt
root/meta.json    written last: where it is, the data set is whole

A class is a shape with a texture, and shares either with other classes. Colors, size, place and
orientation are drawn anew for every image; other objects may lie behind it, or hide a part of it.

K classes.
"""

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from longtail.data.formats.generated import (
    FORMAT_VERSION,
    LT_NUM_CLASSES,
    LT_SHAPES,
    LT_SPLITS,
    object_classes,
    object_parts,
    read_meta,
    split_list,
)
from longtail.data.formats.image_list import image_list_text
from longtail.data.synthetic.layout import centered_mask
from longtail.data.synthetic.scene import colorize, paint_object, photograph
from longtail.data.synthetic.shapes import SHAPES, draw_shape
from longtail.data.synthetic.textures import STUFF_TEXTURES, THING_TEXTURES, texture_field
from longtail.data.synthetic.write import drawn, remove_generated_files, write_image
from longtail.utils.io import atomic_write, write_json

# The folders of images: train's images are some of balanced's.
_FOLDERS = ("train", "val", "test")
IMAGE_SIZE = (32, 32)
VAL_IMAGES = 10
TEST_IMAGES = 40
# The other textures look like objects' at this size.
_GROUNDS = ("grass", "gravel", "cloud", "sand")
MAX_CLASSES = len(LT_SHAPES) * len(THING_TEXTURES)
# Shares of the image: the object, and the others behind it and before it.
_AREA = (0.25, 0.5)
_BEHIND = (0.02, 0.06)
_BEFORE = (0.02, 0.04)
# Periods of textures, as share of the image's side: smaller ones would blur.
_PERIODS = (0.15, 0.22)


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """Description of a generated data set with K classes.

    The k-th most frequent class (from 0) has round(n_0 * imbalance ** (-k / (K - 1))) training
    images; which class that is, the seed decides.

    Attributes:
        num_classes: K, from 2 to 48.
        imbalance: images of the most frequent class over those of the rarest, at least 1.
        max_images: n_0, at least ``imbalance``; in the balanced split all classes have as many.
        seed: non-negative; the same seed gives the same files.

    Raises:
        ValueError: a value is out of its range.
    """

    num_classes: int = LT_NUM_CLASSES
    imbalance: float = 100.0
    max_images: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not 2 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes must be from 2 to {MAX_CLASSES}, got {self.num_classes}")
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(f"imbalance must be at least 1, got {self.imbalance}")
        if self.max_images < self.imbalance:
            raise ValueError(
                f"max_images must be at least imbalance ({self.imbalance:g}), or the rarest class "
                f"would have no image; got {self.max_images}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def parts(self, label: int) -> tuple[str, str]:
        """Shape and texture of a class: a key of ``SHAPES`` and one of ``THING_TEXTURES``."""
        return object_parts(label, LT_SHAPES)

    @property
    def class_names(self) -> list[str]:
        """K names, for instance ``"ring-checked"``."""
        return object_classes(self.num_classes, LT_SHAPES)

    def image_counts(self, split: str) -> np.ndarray:
        """(K,) int64: images of every class in one of ``LT_SPLITS``."""
        if split != "train":
            number = {"val": VAL_IMAGES, "test": TEST_IMAGES, "balanced": self.max_images}[split]
            return np.full(self.num_classes, number)
        place = np.random.default_rng(self.seed).permutation(self.num_classes)
        decay = self.imbalance ** (-place / (self.num_classes - 1))
        return np.rint(self.max_images * decay).astype(np.int64)


def write_classification_dataset(
    root: str | os.PathLike,
    *,
    num_classes: int = ClassificationConfig.num_classes,
    imbalance: float = ClassificationConfig.imbalance,
    max_images: int = ClassificationConfig.max_images,
    seed: int = ClassificationConfig.seed,
    num_workers: int = 1,
) -> dict[str, Any]:
    """Generate a data set, unless ``root`` already holds this very one.

    The files depend on the arguments alone, not on ``num_workers``. Another generated data set in
    ``root`` is removed first, also one whose generation was interrupted.

    Args:
        root: the data set's folder; made if missing.
        num_classes: see :class:`ClassificationConfig`, as for the next three.
        imbalance: images of the most frequent class over those of the rarest.
        max_images: images of the most frequent class.
        seed: non-negative; the same seed gives the same files.
        num_workers: processes; up to 1 means the calling one. With more, a script needs the usual
            ``if __name__ == "__main__"`` guard.

    Returns:
        The content of ``meta.json``: ``format_version``, ``kind``, ``config``, ``classes`` (K
        names), ``image_count`` (per split, K numbers).

    Raises:
        ValueError: an argument is out of its range, or ``root`` contains files that were not
            generated (nothing is removed then).
    """
    config = ClassificationConfig(num_classes, imbalance, max_images, seed)
    root = Path(root)
    meta = {
        "format_version": FORMAT_VERSION,
        "kind": "classification",
        "config": dataclasses.asdict(config),
        "classes": config.class_names,
        "image_count": {split: config.image_counts(split).tolist() for split in LT_SPLITS},
    }
    if read_meta(root) == meta:
        return meta
    folders = [root / "images" / folder for folder in _FOLDERS]
    remove_generated_files(root, folders, "classification")
    for split in LT_SPLITS:
        split_list(root, split).unlink(missing_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [job for folder in _FOLDERS for job in _jobs(config, folder)]
    write = functools.partial(_write_image, root, config)
    for _ in tqdm(drawn(write, jobs, num_workers), "Generating images", len(jobs), unit="image"):
        pass
    for split in LT_SPLITS:
        _write_list(root, config, split)
    write_json(root / "meta.json", meta)
    return meta


def generate_image(config: ClassificationConfig, folder: str, number: int) -> np.ndarray:
    """Draw one image, independently of all others.

    Args:
        config: the data set.
        folder: ``"train"``, ``"val"`` or ``"test"``.
        number: of the image within its folder; a class has its numbers in a row.

    Returns:
        (32, 32, 3) uint8, RGB.
    """
    # 1 onwards: a seed sequence does not tell (a, b) from (a, b, 0), nor (a,) from (a, 0).
    rng = np.random.default_rng((config.seed, _FOLDERS.index(folder) + 1, number + 1))
    shape, texture = config.parts(number // _images_a_class(config, folder))
    ground = STUFF_TEXTURES[_GROUNDS[rng.integers(len(_GROUNDS))]]
    period = IMAGE_SIZE[0] * rng.uniform(*_PERIODS)
    grey = texture_field(ground, IMAGE_SIZE, period, rng.uniform(0, 2 * np.pi), rng)
    canvas, light = colorize(grey, rng), rng.uniform(0, 2 * np.pi)
    for _ in range(rng.integers(0, 3)):
        _add_object(canvas, *_any_parts(rng), _BEHIND, 0.5, light, rng)
    _add_object(canvas, shape, texture, _AREA, 0.12, light, rng)
    if rng.random() < 0.5:
        _add_object(canvas, *_any_parts(rng), _BEFORE, 0.5, light, rng)
    return photograph(canvas, light, rng)


def _any_parts(rng: np.random.Generator) -> tuple[str, str]:
    return (
        LT_SHAPES[rng.integers(len(LT_SHAPES))],
        list(THING_TEXTURES)[rng.integers(len(THING_TEXTURES))],
    )


def _add_object(
    canvas: np.ndarray,
    shape: str,
    texture: str,
    areas: tuple[float, float],
    offset: float,
    light: float,
    rng: np.random.Generator,
) -> None:
    """Paint one object, its center up to ``offset`` (as share of the side) off the image's."""
    height, width = IMAGE_SIZE
    mask = draw_shape(SHAPES[shape], height * width * rng.uniform(*areas), IMAGE_SIZE, rng)
    y, x = ((0.5 + rng.uniform(-offset, offset, 2)) * [height, width]).astype(int)
    mask = centered_mask(mask, y, x, IMAGE_SIZE)
    if mask.any():
        paint_object(canvas, mask, texture, light, rng, _PERIODS)


def _images_a_class(config: ClassificationConfig, folder: str) -> int:
    return int(config.image_counts("balanced" if folder == "train" else folder)[0])


def _jobs(config: ClassificationConfig, folder: str) -> list[tuple[str, int]]:
    number = config.num_classes * _images_a_class(config, folder)
    return [(folder, index) for index in range(number)]


def _write_image(root: Path, config: ClassificationConfig, job: tuple[str, int]) -> None:
    image = generate_image(config, *job)
    write_image(root / _file(*job), np.ascontiguousarray(image[..., ::-1]), [])


def _file(folder: str, number: int) -> str:
    return f"images/{folder}/synthetic_{folder}_{number:06d}.png"


def _write_list(root: Path, config: ClassificationConfig, split: str) -> None:
    """The first images of every class, as many as the split has."""
    folder = split if split in _FOLDERS else "train"
    step = _images_a_class(config, folder)
    pairs = [
        (_file(folder, label * step + index), label)
        for label, count in enumerate(config.image_counts(split))
        for index in range(count)
    ]
    with atomic_write(split_list(root, split)) as file:
        file.write(image_list_text(*zip(*pairs, strict=True)))
