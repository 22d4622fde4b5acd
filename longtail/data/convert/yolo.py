# SPDX-License-Identifier: Apache-2.0
"""YOLO's text files: one an image, a line an object, everything in parts of the image's sides.

A line is ``class x y width height``, of the box's center, or ``class x1 y1 x2 y2 x3 y3 ...``, an
outline.
"""

import math
import os
from collections.abc import Sequence

from longtail.data.convert.boxes import LabeledImage, LabeledObject, clipped_box, image_size
from longtail.data.datasets.files import IMAGE_SUFFIXES, files_by_stem
from longtail.utils.text import read_text

# How far outside of the image, in its sides, rounding may have moved a number.
REACH = 1.0


def read_yolo(labels: str, images: str, classes: Sequence[str]) -> list[LabeledImage]:
    """Read the text files of a folder and of its sub-folders.

    Args:
        labels: the folder of the text files.
        images: the folder of the images, which have the names of their text files. Those without
            one show no object.
        classes: K names, in the order of the numbers.

    Raises:
        ValueError: a line is not that of an object, or there is no image or no text file.
        FileNotFoundError: a folder or an image is missing.
    """
    for folder in (labels, images):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"the folder {folder} does not exist")
    by_stem = files_by_stem(images, IMAGE_SUFFIXES, sub_folders=True)
    found = files_by_stem(labels, (".txt",), sub_folders=True)
    # Tools put their list of classes there.
    found = {k: v for k, v in found.items() if k in by_stem or os.path.basename(k) != "classes"}
    if not found:
        raise ValueError(f"{labels} has no .txt file")
    if absent := [stem for stem in found if stem not in by_stem]:
        raise FileNotFoundError(
            f"{len(absent)} of {len(found)} labelled images are not in {images} (such as "
            f"{absent[0]})"
        )
    labelled = []
    for stem, image in by_stem.items():
        size = image_size(image)
        objects = _objects(found[stem], size, classes) if stem in found else []
        labelled.append(
            LabeledImage(os.path.relpath(image, images).replace(os.sep, "/"), size, objects)
        )
    return labelled


def _objects(path: str, size: tuple[int, int], classes: Sequence[str]) -> list[LabeledObject]:
    objects = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        first, *numbers = line.split()
        try:
            index, values = int(first), [float(value) for value in numbers]
        except ValueError:
            index, values = -1, []
        good = len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)
        if not good or not all(math.isfinite(v) and abs(v - 0.5) <= 0.5 + REACH for v in values):
            raise ValueError(
                f"{path}, line {number}: expected 'class x y width height' or an outline, in parts "
                f"of the image, got {line!r:.80}"
            )
        if not 0 <= index < len(classes):
            raise ValueError(
                f"{path}, line {number}: class {index}, but --classes names {len(classes)} (0 to "
                f"{len(classes) - 1})"
            )
        objects.append(_object(classes[index], values, size))
    return objects


def _object(name: str, values: list[float], size: tuple[int, int]) -> LabeledObject:
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        corners = (
            (x - w / 2) * width,
            (y - h / 2) * height,
            (x + w / 2) * width,
            (y + h / 2) * height,
        )
        return LabeledObject(name, clipped_box(*corners, size))
    xs = [min(max(x, 0.0), 1.0) * width for x in values[::2]]
    ys = [min(max(y, 0.0), 1.0) * height for y in values[1::2]]
    outline = [round(v, 3) for point in zip(xs, ys, strict=True) for v in point]
    box = clipped_box(min(xs), min(ys), max(xs), max(ys), size)
    return LabeledObject(name, box, [outline])
