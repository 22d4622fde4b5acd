# SPDX-License-Identifier: Apache-2.0
"""Images with the names of their classes: a folder a class, or a CSV file.

N images, K classes.
"""

import csv
import os
from collections.abc import Callable, Sequence

from detectron2.data import MetadataCatalog

from longtail.data.datasets.files import IMAGE_SUFFIXES, files_by_stem
from longtail.data.formats.image_list import LabeledImages
from longtail.data.statistics.counting import class_metadata
from longtail.utils.text import read_text

# Names of the columns with the path of an image and the name of its class.
CSV_COLUMNS = ("image", "class")
Named = list[tuple[str, str]]


def read_named(
    path: str,
    *,
    columns: tuple[str, str] = CSV_COLUMNS,
    classes: Sequence[str] | Callable[[], Sequence[str]] | None = None,
) -> LabeledImages:
    """Read images and their classes.

    Args:
        path: a folder with a folder of images for each class, in which there may be others; or a
            CSV file with a header.
        columns: of a CSV file, see :data:`CSV_COLUMNS`.
        classes: K names, or what gives them once they are needed; by default those that occur,
            sorted, numbers as numbers.

    Raises:
        ValueError: an image is of another class, or as the reading of the folder or the file.
        FileNotFoundError: there is neither.
    """
    named = _of_folders(path) if os.path.isdir(path) else _of_csv(path, columns)
    names = list(classes() if callable(classes) else classes or _sorted({n for _, n in named}))
    index = {name: place for place, name in enumerate(names)}
    for file, name in named:
        if name not in index:
            raise ValueError(
                f"{file} is of the class {name!r}, which is none of the {len(names)} classes "
                f"({', '.join(names[:4])}, ...): correct one of the two"
            )
    return LabeledImages([file for file, _ in named], [index[name] for _, name in named], names)


def read_training_names(dataset_name: str) -> list[str]:
    """The class names of a registered image classification data set, which is read if need be.

    Raises:
        ValueError, OSError: it is not registered, or as reading it.
    """
    metadata = class_metadata(dataset_name)
    if not metadata.get("thing_classes"):
        if not callable(metadata.get("load_labels")):
            raise ValueError(f"{dataset_name} is not a data set of image classification")
        metadata.load_labels()
    return list(MetadataCatalog.get(dataset_name).thing_classes)


def _of_folders(path: str) -> Named:
    folders = sorted(e.name for e in os.scandir(path) if e.is_dir() and e.name[0] != ".")
    if not folders:
        raise ValueError(f"{path} has no folders: expected one for each class, with its images")
    named = []
    for folder in folders:
        files = files_by_stem(os.path.join(path, folder), IMAGE_SUFFIXES, sub_folders=True)
        named += [(os.path.relpath(f, path).replace(os.sep, "/"), folder) for f in files.values()]
    if not named:
        raise ValueError(f"{path}: no image in its {len(folders)} folders")
    return named


def _of_csv(path: str, columns: tuple[str, str]) -> Named:
    reader = csv.reader(read_text(path).splitlines())
    header = [cell.strip() for cell in next(reader, [])]
    if absent := [column for column in columns if column not in header]:
        raise ValueError(
            f"no column {absent[0]!r} in the first line ({', '.join(header)}): name the columns "
            "of image and class with columns: [image, class]"
        )
    image, name = (header.index(column) for column in columns)
    named = []
    for row in reader:
        if not row:
            continue
        if len(row) <= max(image, name) or not row[image].strip() or not row[name].strip():
            raise ValueError(f"line {reader.line_num}: no image or no class in {row!r:.80}")
        named.append((row[image].strip(), row[name].strip()))
    if not named:
        raise ValueError("no images: expected a line for each, below the names of the columns")
    return named


def _sorted(names: set[str]) -> list[str]:
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numbers else (0, name))
