# SPDX-License-Identifier: Apache-2.0
"""IoTKITs-LT: checked, copied, and its training images split for choices that must not see val.

Two parts of ``train``, the same whenever the images are:

- The images are visited in the order of numpy's ``default_rng(0).permutation`` over the image ids.
- One goes to ``held_out``, together with its near twins, if of each of their classes at most
  ``min(n // 3, 8)`` images are held out then, n being all training images of the class. Everything
  else is ``fit``.

So every class with 3 images or more keeps at least two thirds of them for fitting, and those with
fewer keep all; ``held_out`` is less skewed than ``train``, since ``val`` is balanced. Near twins
(many photographs show one board on one desk) differ in at most ``TWIN_BITS`` of the 256 bits of a
difference hash: whether the grey value rises from each of 16 x 17 cells to the next.
"""

import json
import os
import shutil
from collections.abc import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from longtail.data.datasets.iotkits_lt import CLASSES, NAME, annotation_file, image_folder
from longtail.data.formats.headers import check_annotated_size
from longtail.data.formats.images import check_whole_image
from longtail.data.formats.lvis_reader import LVISContent
from longtail.data.formats.lvis_records import lvis_records
from longtail.data.formats.lvis_shapes import Entry
from longtail.data.prepare.annotations import checked_annotations
from longtail.data.prepare.runner import Report
from longtail.data.prepare.writing import write_if_changed
from longtail.utils.io import atomic_write

SOURCE_SPLITS = ("train", "val")
SEED = 0
MOST_HELD_OUT = 8
TWIN_BITS = 30
HASH_SIZE = (17, 16)  # width, height


def prepare_iotkits_lt(root: str, source: str | None = None) -> Report:
    """Check annotations and images, copy them, and write the two parts of the training set.

    Annotations come last: where they are, all images are. With a problem none are written.

    Args:
        root: the folder that holds the data sets.
        source: the folder with ``instances_{train,val}.json``, ``train`` and ``val``; its place
            under ``root`` by default, where nothing is copied.

    Returns:
        How many files were written and how many were there already; what is missing or wrong.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: a file cannot be written.
    """
    base = os.path.join(root, NAME)
    source = base if source is None else source
    if not os.path.isdir(source):
        raise FileNotFoundError(
            f"the source folder {source} is missing; it holds instances_{{train,val}}.json and the "
            "folders train and val: name it with --source"
        )
    report, contents = Report(), {}
    for split in SOURCE_SPLITS:
        try:
            content = contents[split] = checked_annotations(
                annotation_file(source, split), CLASSES, "take the data set again"
            )
            _take_images(content, image_folder(source, split), image_folder(base, split), report)
        except (ValueError, FileNotFoundError) as error:
            report.problems.append(str(error))
    if report.problems:
        return report
    documents = {}
    for split in SOURCE_SPLITS:
        with open(annotation_file(source, split), "rb") as file:
            documents[split] = file.read()
    documents |= _parts_of_training(documents["train"], contents["train"], base)
    for split, document in documents.items():
        written = write_if_changed(annotation_file(base, split), document)
        report.written += written
        report.skipped += not written
    return report


def held_out_images(
    classes: Sequence[Sequence[int]], twins: Sequence[Sequence[int]], seed: int = SEED
) -> np.ndarray:
    """Choose the images that are held out, by the rule at the head of this module.

    Args:
        classes: for each of N images the classes in it; one without stays with the others.
        twins: groups of image indices that stay together; an image in none stays alone.
        seed: of the order.

    Returns:
        Ascending indices.
    """
    num_classes = 1 + max((index for present in classes for index in present), default=-1)
    of_image = np.zeros((len(classes), num_classes), np.int64)
    for row, present in zip(of_image, classes, strict=True):
        row[list(present)] = 1
    most = np.minimum(of_image.sum(axis=0) // 3, MOST_HELD_OUT)
    group_of = {index: sorted(group) for group in twins for index in group}
    held, seen = np.zeros(len(classes), bool), set()
    for index in np.random.default_rng(seed).permutation(len(classes)).tolist():
        group = group_of.get(index, [index])
        if index in seen:
            continue
        seen.update(group)
        new = of_image[group].sum(axis=0)
        if new.any() and np.all(of_image[held].sum(axis=0) + new <= most):
            held[group] = True
    return np.flatnonzero(held)


def twin_groups(hashes: np.ndarray) -> list[list[int]]:
    """Group near twins, and the near twins of near twins.

    Args:
        hashes: (N, 256) bool.

    Returns:
        Groups of two indices or more.
    """
    leader = list(range(len(hashes)))
    for index, own in enumerate(hashes):
        for other in np.flatnonzero((hashes[:index] != own).sum(axis=1) <= TWIN_BITS).tolist():
            old, new = leader[index], leader[other]
            leader = [new if number == old else number for number in leader]
    groups: dict[int, list[int]] = {}
    for index, number in enumerate(leader):
        groups.setdefault(number, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _take_images(content: LVISContent, source: str, target: str, report: Report) -> None:
    """Check the images of a split, and copy those that are not in their place."""
    name = f"{NAME} {os.path.basename(target)}"
    for path, copy, item in tqdm(_pairs(content, source, target), name, mininterval=1):
        try:
            header = check_whole_image(path)
            check_annotated_size(path, (item["height"], item["width"]), header)
        except FileNotFoundError:
            report.problems.append(
                f"{path}: missing, but {content.path} lists it: take the data set again"
            )
            continue
        except ValueError as error:
            report.problems.append(str(error))
            continue
        if os.path.exists(copy) and (os.path.samefile(path, copy) or _is_copied(path, copy)):
            report.skipped += 1
            continue
        with open(path, "rb") as image, atomic_write(copy, "wb") as file:
            shutil.copyfileobj(image, file)
        report.written += 1


def _pairs(content: LVISContent, source: str, target: str) -> list[tuple[str, str, Entry]]:
    """Each image where it is and where the registered data set looks for it, and its entry."""
    class_index = {item["id"]: item["id"] - 1 for item in content.categories}
    files = [
        [record["file_name"] for record in lvis_records(content, folder, class_index)]
        for folder in (source, target)
    ]
    return list(zip(*files, content.images, strict=True))


def _is_copied(source: str, target: str) -> bool:
    """Whether a file is a copy that is not older than its source; copies are whole or absent."""
    old, new = os.stat(source), os.stat(target)
    return old.st_size == new.st_size and old.st_mtime_ns <= new.st_mtime_ns


def _parts_of_training(document: bytes, content: LVISContent, base: str) -> dict[str, bytes]:
    """The files of ``fit`` and ``held_out``; their categories are those of the training set."""
    numbers = [image["id"] for image in content.images]
    present: dict[int, set[int]] = {number: set() for number in numbers}
    for item in content.annotations:
        present[item["image_id"]].add(item["category_id"] - 1)
    folder = image_folder(base, "train")
    hashes = [_hash(path) for path, _, _ in _pairs(content, folder, folder)]
    held = held_out_images(
        [sorted(present[number]) for number in numbers], twin_groups(np.array(hashes))
    )
    parts = {"held_out": {numbers[index] for index in held}}
    parts["fit"] = set(numbers) - parts["held_out"]
    whole = json.loads(document.decode("utf-8-sig"))
    return {split: _part(whole, chosen) for split, chosen in parts.items()}


def _part(whole: dict, chosen: set[int]) -> bytes:
    part = {
        **whole,
        "images": [image for image in whole["images"] if image["id"] in chosen],
        "annotations": [item for item in whole["annotations"] if item["image_id"] in chosen],
    }
    return (json.dumps(part, separators=(",", ":")) + "\n").encode()


def _hash(path: str) -> np.ndarray:
    """(256,) bool: the difference hash of an image."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").resize(HASH_SIZE, Image.Resampling.LANCZOS))
    return (grey[:, 1:] > grey[:, :-1]).ravel()
