# SPDX-License-Identifier: Apache-2.0
"""Text lists of images and their classes, as ImageNet-LT and Places-LT come.

N images, K classes. A line is ``path label``: the path, with forward slashes, is relative to the
folder of the images, the label is in 0..K-1.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from longtail.utils.text import read_text


@dataclass(frozen=True)
class LabeledImages:
    """Content of a list.

    Attributes:
        files: N paths relative to the folder of the images, with forward slashes.
        labels: N class indices.
        class_names: K names, None where the list does not name its classes.
    """

    files: list[str]
    labels: list[int]
    class_names: list[str] | None = None


def read_image_list(path: str | os.PathLike) -> LabeledImages:
    """Read a list, without a look at whether the labels make sense.

    Raises:
        ValueError: a line is not a path and a number; the message starts with the line's number.
    """
    lines = read_text(path).rstrip().splitlines()
    files, labels = [], []
    for number, line in enumerate(lines, start=1):
        try:
            image, label = line.rsplit(maxsplit=1)
            labels.append(int(label))
        except ValueError:
            raise ValueError(
                f"line {number}: expected 'path label', the label an integer, got {line!r:.80}"
            ) from None
        files.append(image)
    return LabeledImages(files, labels)


def image_list_text(files: Sequence[str], labels: Sequence[int]) -> str:
    """Write the content of a list: the inverse of :func:`read_image_list`."""
    return "".join(f"{file} {label}\n" for file, label in zip(files, labels, strict=True))
