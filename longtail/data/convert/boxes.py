# SPDX-License-Identifier: Apache-2.0
"""What converters to COCO's JSON share: annotated images, class lists, the document.

H, W: height and width of an image as it is shown.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from longtail.data.formats.headers import check_image, read_header
from longtail.data.formats.lvis_writer import count_annotations
from longtail.utils.errors import one_line
from longtail.utils.text import read_text


@dataclass(frozen=True)
class LabeledObject:
    """One object of an image.

    Attributes:
        name: of its class.
        box: x, y, width, height in pixels, inside of the image.
        polygons: outlines ``[x1, y1, ...]``, if there are any.
        crowd: whether it counts neither for training nor as a mistake.
    """

    name: str
    box: tuple[float, float, float, float]
    polygons: list[list[float]] = field(default_factory=list)
    crowd: bool = False


@dataclass(frozen=True)
class LabeledImage:
    """An image and its objects.

    Attributes:
        file: relative to the folder of the images, with forward slashes.
        size: (H, W).
        objects: in the order of the file.
    """

    file: str
    size: tuple[int, int]
    objects: list[LabeledObject]


def image_size(path: str) -> tuple[int, int]:
    """(H, W) of an image as it is shown.

    Raises:
        FileNotFoundError, ValueError: it cannot be read.
    """
    header = read_header(path)
    check_image(path, header)
    return header.size


def clipped_box(
    x0: float, y0: float, x1: float, y1: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The part of a box between two corners that is inside of an image, as x, y, width, height."""
    height, width = size
    x0, x1 = (min(max(x, 0.0), float(width)) for x in (x0, x1))
    y0, y1 = (min(max(y, 0.0), float(height)) for y in (y0, y1))
    return round(x0, 3), round(y0, 3), round(max(x1 - x0, 0), 3), round(max(y1 - y0, 0), 3)


def read_class_names(path: str | os.PathLike) -> list[str]:
    """Read names of classes: of a text file, a YAML file with ``names``, or COCO's JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, or has a name twice.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"--classes {path} does not exist: name a file with the classes")
    text, ending = read_text(path), os.path.splitext(path)[1].lower()
    try:
        if ending == ".json":
            names = [item["name"] for item in json.loads(text)["categories"]]
        elif ending in (".yaml", ".yml"):
            names = yaml.safe_load(text)["names"]
            names = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
        names = [str(name) for name in names]
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"--classes {path}: expected a name a line, YAML with names, or COCO's JSON "
            f"({one_line(error)})"
        ) from None
    if not names or len(set(names)) != len(names):
        raise ValueError(f"--classes {path}: expected different names, at least one, got {names}")
    return names


def coco_document(images: Sequence[LabeledImage], classes: Sequence[str]) -> dict[str, Any]:
    """Build COCO's JSON; objects without any area are left out.

    Args:
        images: with their objects.
        classes: K names; category ids are 1 to K.

    Raises:
        ValueError: an object is of another class.
    """
    ids = {name: number for number, name in enumerate(classes, start=1)}
    entries, annotations = [], []
    for image_id, image in enumerate(images, start=1):
        height, width = image.size
        entries.append({"id": image_id, "file_name": image.file, "height": height, "width": width})
        for item in image.objects:
            if item.name not in ids:
                raise ValueError(
                    f"{image.file} has an object of the class {item.name!r}, which --classes does "
                    "not name"
                )
            if item.box[2] <= 0 or item.box[3] <= 0:
                continue
            shape = {"segmentation": item.polygons} if item.polygons else {}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[item.name],
                    "bbox": list(item.box),
                    "area": round(item.box[2] * item.box[3], 3),
                    "iscrowd": int(item.crowd),
                    **shape,
                }
            )
            if shape:
                # That of the outline: whoever reads the file knows how to count its pixels.
                del annotations[-1]["area"]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


def class_counts(document: dict[str, Any]) -> list[tuple[str, int, int]]:
    """For each class its name, its images and its objects, crowds left out."""
    by_image: dict[int, list] = {image["id"]: [] for image in document["images"]}
    for item in document["annotations"]:
        if not item["iscrowd"]:
            by_image[item["image_id"]].append(item)
    names = [category["name"] for category in document["categories"]]
    counts = count_annotations([({}, items) for items in by_image.values()], len(names))
    return [(name, int(i), int(n)) for name, i, n in zip(names, *counts, strict=True)]
