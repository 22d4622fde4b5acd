# SPDX-License-Identifier: Apache-2.0
"""Generated data sets on the disk: files, classes and ``meta.json``; drawing takes no part here.

The names of the classes follow from their number alone, so that data sets are registered before
they are generated. K classes.
"""

import json
import os
from pathlib import Path
from typing import Any

from longtail.utils.text import read_text

# To be raised whenever the same config gives other files than before.
FORMAT_VERSION = 1
SPLITS = ("train", "val")
LT_SPLITS = ("train", "val", "test", "balanced")
# Scenes of handwritten digits.
DIGIT_SPLITS = ("train", "val", "test")
DIGIT_CLASSES = (*(str(digit) for digit in range(10)), "ground")
# What is generated unless asked otherwise: scenes, scenes in LVIS's format, those of objects with a
# hue, images with one object.
NUM_CLASSES = 24
LVIS_NUM_CLASSES = 68
HUED_NUM_CATEGORIES = 400
LT_NUM_CLASSES = 24

STUFF = ("brick", "water", "grass", "gravel", "cloud", "wood", "tiles", "sand")
TEXTURES = ("striped", "checked", "zigzag", "meshed", "marbled", "plain", "scaly", "dotted")
SHAPES = ("disk", "pole", "ring", "box", "star", "wire", "crescent", "pebble")
# One after the other around the circle of colours, equally far apart.
HUES = ("red", "amber", "lime", "mint", "azure", "violet", "magenta")
# The others are too thin to show a texture in the small images with one object.
LT_SHAPES = ("disk", "ring", "box", "star", "crescent", "pebble")


def object_parts(number: int, shapes: tuple[str, ...] = SHAPES) -> tuple[str, str]:
    """Shape and texture of the classes of objects.

    All shapes come once, each with another texture, before any comes again with a new one: a rare
    class has its shape in common with one frequent class and its texture with another.

    Args:
        number: of the class, from 0 to ``len(shapes) * len(TEXTURES) - 1``.
        shapes: ``SHAPES`` or ``LT_SHAPES``.
    """
    lap, shape = divmod(number, len(shapes))
    # 3 has no divisor in common with the 8 textures, hence no pair occurs twice.
    return shapes[shape], TEXTURES[(shape + 3 * lap) % len(TEXTURES)]


def hued_parts(number: int) -> tuple[str, str, str]:
    """Hue, shape and texture of the classes of objects that have a hue of their own.

    All 64 pairs of shape and texture come once before any comes again with another hue: a rare
    class differs from a frequent one in its hue alone, and from others in shape or texture.

    Args:
        number: of the class, from 0 to ``64 * len(HUES) - 1``.
    """
    lap, pair = divmod(number, len(SHAPES) * len(TEXTURES))
    return HUES[(pair + lap) % len(HUES)], *object_parts(pair)


def num_stuff(num_classes: int) -> int:
    """How many of K classes of scenes are stuff; they are the first ones."""
    return min(len(STUFF), max(2, round(num_classes / 5)))


def object_classes(number: int, shapes: tuple[str, ...] = SHAPES) -> list[str]:
    """The first names of classes of objects, for instance ``"ring-zigzag"``."""
    return ["-".join(object_parts(index, shapes)) for index in range(number)]


def hued_classes(number: int) -> list[str]:
    """The first names of classes with a hue, for instance ``"red-disk-striped"``."""
    return ["-".join(hued_parts(index)) for index in range(number)]


def scene_classes(num_classes: int) -> list[str]:
    """K names: stuff, for instance ``"brick"``, then objects."""
    stuff = num_stuff(num_classes)
    return [*STUFF[:stuff], *object_classes(num_classes - stuff)]


def split_folders(root: str | os.PathLike, split: str) -> tuple[Path, Path]:
    """Where the images and the label maps of a split of scenes are.

    Args:
        root: the data set's folder.
        split: one of ``SPLITS``.
    """
    folder = {"train": "training", "val": "validation"}[split]
    return Path(root) / "images" / folder, Path(root) / "annotations_detectron2" / folder


def digit_folders(root: str | os.PathLike, split: str) -> tuple[Path, Path]:
    """Where the images and the label maps of one of ``DIGIT_SPLITS`` are.

    Args:
        root: the data set's folder.
        split: one of ``DIGIT_SPLITS``.
    """
    return Path(root) / "images" / split, Path(root) / "labels" / split


def annotation_file(root: str | os.PathLike, split: str) -> Path:
    """The JSON file of one of ``SPLITS`` of a data set in LVIS's format."""
    return Path(root) / f"lvis_synthetic_{split}.json"


def split_list(root: str | os.PathLike, split: str) -> Path:
    """The list of images of one of ``LT_SPLITS``; its paths are relative to ``root``."""
    return Path(root) / f"synthetic_lt_{split}.txt"


def read_meta(root: str | os.PathLike) -> dict[str, Any] | None:
    """Read what was noted about a generated data set.

    Args:
        root: the data set's folder.

    Returns:
        What the function that wrote it returned; None if there is no complete generated data set of
        this format.
    """
    try:
        meta = json.loads(read_text(Path(root) / "meta.json"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    own = isinstance(meta, dict) and meta.get("format_version") == FORMAT_VERSION
    return meta if own else None
