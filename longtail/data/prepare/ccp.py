# SPDX-License-Identifier: Apache-2.0
"""Clothing Co-Parsing: label maps as PNG files, 0..58, which stay as they are, and its objects."""

import csv
import os
from collections.abc import Iterator

from longtail.data.datasets import ccp
from longtail.data.datasets.files import read_stems
from longtail.data.formats.headers import check_annotated_size, read_header
from longtail.data.formats.lvis_records import lvis_records
from longtail.data.prepare.annotations import checked_annotations
from longtail.data.prepare.labels import read_png
from longtail.data.prepare.recipe import Recipe, SourceError, Split, label_table, listed_splits
from longtail.data.prepare.writing import write_if_changed
from longtail.utils.text import read_text

CLASS_LIST = "classes.tsv"
ARCHIVE = (
    "the folder with images/ID.jpg, labels/ID.png, classes.tsv, {train,val,test}.txt and "
    "instances_{train,val,test}.json"
)
AGAIN = "take all files again from one source"


def _splits(source: str, root: str) -> list[Split]:
    return listed_splits(
        ccp.SPLITS,
        source,
        os.path.join(root, ccp.NAME),
        labels="labels",
        targets=ccp.image_and_label_folders(root),
        list_file=ccp.image_list,
    )


def _complete(source: str, root: str, splits: list[Split]) -> Iterator[bool | SourceError]:
    """Check the classes and the lists, and take the annotations over."""
    try:
        _check_classes(os.path.join(source, CLASS_LIST))
    except (ValueError, FileNotFoundError) as error:
        yield SourceError(str(error))
    # What is missing is a problem already.
    splits = [split for split in splits if os.path.isfile(split.names)]
    owner: dict[str, str] = {}
    for split in splits:
        shared = [stem for stem in read_stems(split.names) if stem in owner]
        if shared:
            yield SourceError(
                f"{split.names}: {len(shared)} names are in {owner[shared[0]]} or here twice "
                f"({shared[0]}); {AGAIN}"
            )
        owner |= dict.fromkeys(read_stems(split.names), split.names)
    for split in splits:
        try:
            yield _take_annotations(split, source, os.path.join(root, ccp.NAME))
        except (ValueError, FileNotFoundError) as error:
            yield SourceError(str(error))


def _check_classes(path: str) -> None:
    """Compare the source's list of classes with what is registered."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: missing; {AGAIN}")
    rows = csv.DictReader(read_text(path).splitlines(), delimiter="\t")
    keys = ("index", "name", "train_images")
    found = [tuple(row.get(key) for key in keys) for row in rows]
    expected = [
        (str(index), name, str(count))
        for index, (name, count) in enumerate(zip(ccp.CLASSES, ccp.TRAIN_IMAGES, strict=True))
    ]
    if len(found) != len(expected):
        raise ValueError(f"{path}: {len(found)} classes, expected {len(expected)}; {AGAIN}")
    for row, wanted in zip(found, expected, strict=True):
        if row != wanted:
            raise ValueError(f"{path}: {', '.join(keys)} are {row}, expected {wanted}; {AGAIN}")


def _take_annotations(split: Split, source: str, base: str) -> bool:
    """Copy the annotations of a split, which are of exactly its images.

    Returns:
        Whether they were not there already.
    """
    path = ccp.annotation_file(source, split.name)
    content = checked_annotations(path, ccp.OBJECTS, AGAIN)
    class_index = {category["id"]: category["id"] - 1 for category in content.categories}
    records = lvis_records(content, split.image_target, class_index)
    listed = set(read_stems(split.names))
    named = {os.path.splitext(os.path.basename(item["file_name"]))[0] for item in records}
    if named != listed:
        raise ValueError(
            f"{path}: not of the images of {split.names}, only one of the two has "
            f"{min(named ^ listed)}; {AGAIN}"
        )
    for item in records:
        if not os.path.isfile(item["file_name"]):
            raise ValueError(f"{path}: there is no {item['file_name']} for it; {AGAIN}")
        header = read_header(item["file_name"])
        check_annotated_size(item["file_name"], (item["height"], item["width"]), header)
    with open(path, "rb") as file:
        return write_if_changed(ccp.annotation_file(base, split.name), file.read())


CCP = Recipe(
    name="ccp",
    source=ccp.NAME,
    archive=ARCHIVE,
    splits=_splits,
    label_suffix=".png",
    read=read_png,
    table=label_table({index: index for index in range(len(ccp.CLASSES))}),
    values="0 to 58",
    complete=_complete,
)
