# SPDX-License-Identifier: Apache-2.0
"""Label maps whose pixels have the colour, or another number, of their class.

They are written once as the label maps that everything here reads: so a colour that no class has is
found before a training, and not in the middle of it.

H, W: height and width of a label map; K classes.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from longtail.data.datasets.declarations import Context, read_color
from longtail.data.datasets.files import files_by_stem
from longtail.data.formats.images import read_image, read_label_map
from longtail.utils.errors import one_line
from longtail.utils.io import atomic_write
from longtail.utils.text import read_text

IGNORE = 255


@dataclass(frozen=True)
class ColorTable:
    """Which pixels are which class.

    Attributes:
        classes: K names.
        keys: by number or colour, as red * 65536 + green * 256 + blue, its label: 0..K-1 or 255.
        is_colored: whether they are colours.
    """

    classes: list[str]
    keys: dict[int, int]
    is_colored: bool


def read_color_table(path: str | os.PathLike) -> ColorTable:
    """Read a table: ``classes``, a colour or a number each, and what to ``ignore``.

    A colour is ``[red, green, blue]`` or ``"#804080"``; all are colours, or all numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a table.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"--colors {path} does not exist: name the table of colours")
    try:
        content = yaml.safe_load(read_text(path))
        classes, ignored = content["classes"], content.get("ignore") or []
        values = [*classes.values(), *ignored]
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--colors {path}: expected classes: {{name: [red, green, blue], ...}} and, if need "
            f"be, ignore: [[red, green, blue], ...] ({one_line(error)})"
        ) from None
    colored = any(isinstance(value, (list, str)) for value in values)
    keys: dict[int, int] = {}
    for label, value in enumerate(values):
        where = Context(f"--colors {path}", Path())
        if colored:
            red, green, blue = read_color(value, where)
            key = red * 65536 + green * 256 + blue
        elif type(value) is int and 0 <= value <= 255:
            key = value
        else:
            raise where.error("numbers from 0 to 255", value)
        if key in keys:
            raise ValueError(f"--colors {path}: {value} is there twice")
        keys[key] = label if label < len(classes) else IGNORE
    if not 0 < len(classes) < IGNORE:
        raise ValueError(f"--colors {path}: expected 1 to 254 classes, got {len(classes)}")
    return ColorTable([str(name) for name in classes], keys, colored)


def read_colored(path: str, table: ColorTable) -> np.ndarray:
    """Read a label map by a table, (H, W) uint8 of 0..K-1 and 255.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, or has a colour that the table does not name.
    """
    if table.is_colored:
        pixels = read_image(path, "RGB").astype(np.int64)
        numbers = pixels @ np.array([65536, 256, 1])
    else:
        numbers = read_label_map(path).astype(np.int64)
    found, place, count = np.unique(numbers, return_inverse=True, return_counts=True)
    unknown = [i for i, key in enumerate(found.tolist()) if key not in table.keys]
    if unknown:
        most = max(unknown, key=lambda i: count[i])
        key = int(found[most])
        shown = [key >> 16, key >> 8 & 255, key & 255] if table.is_colored else key
        raise ValueError(
            f"{path}: {len(unknown)} values are in no class, such as {shown} of {count[most]} "
            "pixels: add them to classes or to ignore (many of few pixels come from JPEG or from "
            "resizing: take the original)"
        )
    labels = np.array([table.keys[key] for key in found.tolist()], np.uint8)
    return labels[place].reshape(numbers.shape)


def convert_colors(source: str, table: ColorTable, output: str) -> tuple[np.ndarray, np.ndarray]:
    """Write the label maps of a folder, and of its sub-folders, with the labels of a table.

    ``classes.txt`` beside them has the names, for a declaration of the data set.

    Args:
        source: folder of PNG files.
        table: what they mean.
        output: folder to write.

    Returns:
        Pixels and images of each class, (K,) int64.

    Raises:
        ValueError, FileNotFoundError: as :func:`read_colored`; or there is no label map.
    """
    if not os.path.isdir(source):
        raise FileNotFoundError(f"the folder {source} does not exist")
    if os.path.realpath(source) == os.path.realpath(output):
        raise ValueError(f"--output {output} has the label maps to convert: name another folder")
    files = files_by_stem(source, (".png",), sub_folders=True)
    if not files:
        raise ValueError(f"{source} has no .png file: label maps in colours are PNG files")
    counts = np.zeros((2, len(table.classes)), np.int64)
    for stem, path in tqdm(files.items(), "label maps", unit="image"):
        labels = read_colored(path, table)
        pixels = np.bincount(labels.ravel(), minlength=256)[: len(table.classes)]
        counts += [pixels, pixels > 0]
        with atomic_write(os.path.join(output, f"{stem}.png"), "wb") as file:
            Image.fromarray(labels).save(file, format="PNG")
    with atomic_write(os.path.join(output, "classes.txt")) as file:
        file.write("".join(f"{name}\n" for name in table.classes))
    return counts[0], counts[1]
