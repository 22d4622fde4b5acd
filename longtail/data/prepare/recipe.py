# SPDX-License-Identifier: Apache-2.0
"""The parts of a data set's preparation; the modules beside this one fill them in."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

IGNORE = 255
# A table entry for values that must not occur.
INVALID = -1
# Tables have one entry for each 8-bit value, and a last one for everything else.
TABLE_SIZE = 257


class SourceError(ValueError):
    """A file of the source that is missing or wrong; the message says what to do."""


@dataclass(frozen=True)
class Split:
    """The folders of one split.

    Attributes:
        name: as in the registered data set's name.
        images: folder of the source's images.
        labels: folder of the source's labels.
        image_target: folder where the registered data set looks for the images.
        label_target: folder where it looks for the label maps.
        names: text file of the source with the names of the split's images, one a line. All
            images of the folder if None.
        names_target: where the registered data set looks for that file.
        image_archive: what the images come in, if not in the recipe's archive.
        optional: whether the source may lack the split altogether.
    """

    name: str
    images: str
    labels: str
    image_target: str
    label_target: str
    names: str | None = None
    names_target: str | None = None
    image_archive: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Recipe:
    """Reading and mapping of the labels of a data set.

    Attributes:
        name: the name for the command line.
        source: the place of the archive's content, relative to the folder of all data sets.
        archive: what is to be unpacked there, for messages.
        splits: ``splits(source, root)`` gives all splits of the data set.
        label_suffix: ending of the source's label files.
        read: ``read(path)`` gives an (H, W) integer array; it may raise anything for a file
            that it cannot read.
        table: (257,) int16: the class index (or 255: ignored) of each value 0..255 of the
            source; -1 for values that must not occur, which includes the last entry.
        values: the values that may occur, in words.
        complete: ``complete(source, root, splits)``, called once the label maps of ``splits`` are
            done, makes or checks what else belongs to them: for each further file whether it was
            written, or its problem.
    """

    name: str
    source: str
    archive: str
    splits: Callable[[str, str], list[Split]]
    label_suffix: str
    read: Callable[[str], np.ndarray]
    table: np.ndarray
    values: str
    complete: Callable[[str, str, list[Split]], Iterable[bool | SourceError]] | None = None


def label_table(mapping: dict[int, int]) -> np.ndarray:
    """Build the table of a recipe from ``{source value: class index or 255}``.

    Returns:
        (257,) int16.
    """
    table = np.full(TABLE_SIZE, INVALID, dtype=np.int16)
    table[list(mapping)] = list(mapping.values())
    return table


def listed_splits(
    names: Sequence[str],
    source: str,
    base: str,
    *,
    labels: str,
    targets: tuple[str, str],
    list_file: Callable[[str, str], str],
) -> list[Split]:
    """Describe splits that share a folder ``images`` and one of label maps, and differ by lists.

    Args:
        names: of the splits.
        source: folder with the content of the archive.
        base: folder of the data set, where the lists go.
        labels: folder of the label maps in ``source``.
        targets: where the registered data set looks for the images, and for the label maps.
        list_file: the list of a split, from a folder and the split's name.
    """
    image_target, label_target = targets
    return [
        Split(
            name=name,
            images=os.path.join(source, "images"),
            labels=os.path.join(source, labels),
            image_target=image_target,
            label_target=label_target,
            names=list_file(source, name),
            names_target=list_file(base, name),
        )
        for name in names
    ]
