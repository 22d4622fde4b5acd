# SPDX-License-Identifier: Apache-2.0
"""Counting the classes of a registered data set, and telling whether the data set has changed.

Shapes: N images, K classes.
"""

import difflib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils import comm
from tqdm import tqdm

from longtail.data.formats.images import label_image
from longtail.data.statistics.groups import LVIS_BOUNDS, FrequencyBounds
from longtail.utils.cores import cores_of_process
from longtail.utils.distributed import in_all_processes

# Part of every fingerprint: to be raised when the meaning of a count changes, against old caches.
COUNTING_VERSION = 2
FILES_PER_TASK = 32
T = TypeVar("T")
# For each of N images: the number of pixels (> 0) by class (0..K-1).
ClassesOfImages = list[dict[int, int]]


@dataclass(frozen=True)
class CountingSource:
    """Files and labels that the counts of one data set are taken from.

    Attributes:
        dataset_name: the registered name.
        class_names: K names, in class-index order.
        ignore_label: the label of pixels that belong to no class.
        image_files: N image files; empty for image classification, which needs none here.
        label_files: N label maps, None for a data set that has none.
        categories: for each of the N images the classes (0..K-1) of its instances without the
            crowds, None for a data set that has none.
        labels: for image classification the class (0..K-1) of each of N images, None for others.
    """

    dataset_name: str
    class_names: tuple[str, ...]
    ignore_label: int
    image_files: list[str]
    label_files: list[str] | None
    categories: list[list[int]] | None
    labels: list[int] | None = None

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.image_files if self.labels is None else self.labels)

    def names_of_label_maps(self) -> list[str]:
        """Name the N label maps below their common folder, wherever that is."""
        return _below_common_folder(self.label_files)


def class_metadata(dataset_name: str) -> Metadata:
    """Look the metadata of a registered data set up.

    Raises:
        ValueError: no data set of this name is registered; the message lists similar names.
    """
    registered = DatasetCatalog.list()
    if dataset_name not in registered:
        close = difflib.get_close_matches(dataset_name, registered, n=4)
        hint = f"did you mean {', '.join(close)}?" if close else "no registered name is similar"
        raise ValueError(
            f"data set {dataset_name!r} is not registered in detectron2's DatasetCatalog: {hint}"
        )
    return MetadataCatalog.get(dataset_name)


def frequency_bounds(dataset_names: Sequence[str]) -> FrequencyBounds:
    """The bounds of rare and common classes that data sets are registered with.

    Args:
        dataset_names: the first whose metadata have ``frequency_bounds`` decides; LVIS's if none
            has. Names that are not registered have none.
    """
    for name in dataset_names:
        metadata = MetadataCatalog.get(name) if name in MetadataCatalog.list() else {}
        if (bounds := metadata.get("frequency_bounds")) is not None:
            return FrequencyBounds(*bounds)
    return LVIS_BOUNDS


def load_records(dataset_name: str) -> list[dict[str, Any]]:
    """Read the records of a registered data set, in detectron2's format.

    Args:
        dataset_name: a name in detectron2's ``DatasetCatalog``.

    Raises:
        ValueError: the name is not registered, or the data set is empty.
        FileNotFoundError: the files of the data set are not on this machine.
    """
    class_metadata(dataset_name)
    try:
        records = DatasetCatalog.get(dataset_name)
    except (OSError, AssertionError) as error:
        # detectron2 asserts that it finds label files; for the user both mean the same.
        raise FileNotFoundError(
            f"data set {dataset_name!r} cannot be read: {error}; "
            "put it under the folder that DETECTRON2_DATASETS names"
        ) from error
    if len(records) == 0:
        raise ValueError(f"data set {dataset_name!r} has no images")
    return records


def load_source(dataset_name: str) -> CountingSource:
    """Read the records of a registered data set and decide what is counted in it.

    Metadata ``load_labels`` (see :func:`longtail.data.datasets.register_image_list`) give the
    labels of an image classification data set, whose images need not exist.

    Otherwise, records with ``sem_seg_file_name`` and metadata ``stuff_classes`` are a semantic data
    set; their ``annotations`` are counted too where ``thing_classes`` is the same list. Records
    with ``annotations`` and metadata ``thing_classes`` alone are an instance data set. Annotations
    with ``iscrowd`` = 1 outline groups, not instances, and are not counted.

    Args:
        dataset_name: a name in detectron2's ``DatasetCatalog``.

    Raises:
        ValueError: the name is not registered, the data set is empty, has neither kind of labels,
            has them for some records only, or has a category id outside 0..K-1.
        FileNotFoundError: the files of the data set are not on this machine.
    """
    metadata = class_metadata(dataset_name)
    if metadata.get("load_labels") is not None:
        labels = metadata.load_labels()
        return CountingSource(
            dataset_name=dataset_name,
            # Some data sets know their classes once the list is read.
            class_names=tuple(metadata.thing_classes),
            ignore_label=255,
            image_files=[],
            label_files=None,
            categories=None,
            labels=labels,
        )
    records = load_records(dataset_name)
    stuff = tuple(metadata.get("stuff_classes") or ())
    things = tuple(metadata.get("thing_classes") or ())
    has_labels = bool(stuff) and any("sem_seg_file_name" in record for record in records)
    has_instances = bool(things) and any("annotations" in record for record in records)
    if not has_labels and not has_instances:
        raise ValueError(
            f"data set {dataset_name!r} has no classes to count: it needs records with "
            "'sem_seg_file_name' and metadata 'stuff_classes', or records with 'annotations' and "
            "metadata 'thing_classes'"
        )
    class_names = stuff if has_labels else things
    with_instances = has_instances and class_names == things
    return CountingSource(
        dataset_name=dataset_name,
        class_names=class_names,
        ignore_label=metadata.get("ignore_label", 255),
        image_files=[str(record.get("file_name")) for record in records],
        label_files=_column(dataset_name, records, "sem_seg_file_name") if has_labels else None,
        categories=_categories(dataset_name, records, len(things)) if with_instances else None,
    )


def fingerprint(source: CountingSource) -> str:
    """Compute a hexadecimal SHA-256 that changes whenever the counts of ``source`` may have.

    It covers the class names, the ignore label, and for each image the label file's name below
    their common folder, size and time of modification, and the classes of its instances, or its
    one class. So no file is opened; the order of the records and the place of the folder do not
    matter.

    Raises:
        FileNotFoundError: a label file is missing.
    """
    columns: list[Sequence[Any]] = []
    if source.label_files is not None:
        columns.append(source.names_of_label_maps())
        columns.append(_in_threads(_size_and_time, source.label_files, cores_of_process()))
    if source.categories is not None:
        columns.append(_below_common_folder(source.image_files))
        columns.append([sorted(classes) for classes in source.categories])
    if source.labels is not None:
        columns.append(source.labels)
    header = [COUNTING_VERSION, source.class_names, source.ignore_label]
    digest = hashlib.sha256(json.dumps(header).encode())
    for line in sorted(json.dumps(row) for row in zip(*columns, strict=True)):
        digest.update(b"\n" + line.encode())
    return digest.hexdigest()


def count_label_maps(
    source: CountingSource, num_workers: int | None = None
) -> tuple[np.ndarray, np.ndarray, ClassesOfImages]:
    """Count pixels and images of every class over the label maps of ``source``, and in each.

    Within :func:`~longtail.utils.distributed.from_main_process` all processes count a part of them.

    Args:
        source: a source with 8-bit label files; of a palette the indices are the labels.
        num_workers: threads; by default one for each core. Threads are enough: Pillow decodes and
            counts without holding Python's lock.

    Returns:
        ``(pixel_count, image_count, classes_of_images)``, the first two (K,) int64. Pixels of the
        ignore label do not count.

    Raises:
        ValueError: ``num_workers`` is below 1, a file is not a label map or is truncated, or it has
            a label that is neither in 0..K-1 nor the ignore label.
        FileNotFoundError: a label file is missing.
    """
    num_workers = check_num_workers(num_workers)
    files = source.label_files
    num_classes = len(source.class_names)
    pixel_count = np.zeros(num_classes, dtype=np.int64)
    image_count = np.zeros(num_classes, dtype=np.int64)
    count = functools.partial(
        _classes_of_files,
        num_classes=num_classes,
        ignore_label=source.ignore_label,
        num_workers=num_workers,
        title=f"class statistics of {source.dataset_name}",
    )
    classes_of_images = in_all_processes(count, files)
    for classes in classes_of_images:
        indices = list(classes)
        pixel_count[indices] += np.array(list(classes.values()), dtype=np.int64)
        image_count[indices] += 1
    return pixel_count, image_count, classes_of_images


def count_instances(source: CountingSource) -> tuple[np.ndarray, np.ndarray]:
    """Count instances and images of every class over the annotations of ``source``.

    Returns:
        ``(instance_count, image_count)``, each (K,) int64.
    """
    instance_count = np.zeros(len(source.class_names), dtype=np.int64)
    image_count = np.zeros(len(source.class_names), dtype=np.int64)
    for classes in source.categories:
        np.add.at(instance_count, classes, 1)
        image_count[list(set(classes))] += 1
    return instance_count, image_count


def count_labels(source: CountingSource) -> np.ndarray:
    """Count the images of every class of an image classification data set, (K,) int64."""
    return np.bincount(source.labels, minlength=len(source.class_names)).astype(np.int64)


def check_num_workers(num_workers: int | None) -> int:
    """Choose the number of threads: ``num_workers``, or one for each core that we may use.

    Raises:
        ValueError: ``num_workers`` is below 1.
    """
    if num_workers is None:
        return cores_of_process()
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    return num_workers


def _classes_of_files(
    files: Sequence[str], *, num_classes: int, ignore_label: int, num_workers: int, title: str
) -> ClassesOfImages:
    """Count the pixels of the classes in each label map."""

    def count(file: str) -> np.ndarray:
        return _class_histogram(file, num_classes, ignore_label)

    found = []
    hidden = not comm.is_main_process()
    with tqdm(total=len(files), desc=title, unit="image", disable=hidden) as progress:
        for histogram in _in_threads(count, files, num_workers):
            classes = np.flatnonzero(histogram)
            found.append(dict(zip(classes.tolist(), histogram[classes].tolist(), strict=True)))
            progress.update()
    return found


def _class_histogram(file: str, num_classes: int, ignore_label: int) -> np.ndarray:
    """Count the pixels of every class in one label map, (K,) int64."""
    histogram = np.array(label_image(file).histogram(), dtype=np.int64)
    if 0 <= ignore_label < len(histogram):
        histogram[ignore_label] = 0
    if histogram[num_classes:].any():
        wrong = num_classes + int(np.flatnonzero(histogram[num_classes:])[0])
        raise ValueError(
            f"{file}: label {wrong}, but the data set has {num_classes} classes (labels 0 to "
            f"{num_classes - 1}) and ignore label {ignore_label}; prepare the labels again, or "
            "correct the class names or ignore_label in the data set's metadata"
        )
    if len(histogram) < num_classes:
        histogram = np.pad(histogram, (0, num_classes - len(histogram)))
    return histogram[:num_classes]


def _in_threads(
    function: Callable[[Any], T], items: Sequence[Any], num_workers: int
) -> Iterator[T]:
    """Yield ``function(item)`` in order, computed in threads, several items a task."""

    def run(start: int) -> list[T]:
        return [function(item) for item in items[start : start + FILES_PER_TASK]]

    with ThreadPoolExecutor(num_workers) as pool:
        for results in pool.map(run, range(0, len(items), FILES_PER_TASK)):
            yield from results


def _size_and_time(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing: restore this label map") from error
    return status.st_size, status.st_mtime_ns


def _below_common_folder(files: Sequence[str]) -> list[str]:
    files = [os.path.abspath(file) for file in files]
    folder = os.path.commonpath({os.path.dirname(file) for file in files})
    return [file[len(folder) :].lstrip(os.sep) for file in files]


def _column(dataset_name: str, records: list[dict], key: str) -> list[Any]:
    for record in records:
        if key not in record:
            raise ValueError(
                f"data set {dataset_name!r}: the record of {record.get('file_name')} has no "
                f"{key!r}, but others have; add it or leave the record out"
            )
    return [record[key] for record in records]


def _categories(dataset_name: str, records: list[dict], num_classes: int) -> list[list[int]]:
    categories = []
    annotations = _column(dataset_name, records, "annotations")
    for record, instances in zip(records, annotations, strict=True):
        classes = [item["category_id"] for item in instances if not item.get("iscrowd", 0)]
        for wrong in (index for index in classes if not 0 <= index < num_classes):
            raise ValueError(
                f"data set {dataset_name!r}: {record.get('file_name')} has category_id {wrong}, "
                f"but thing_classes has {num_classes} names (0 to {num_classes - 1}); map the "
                "ids to these indices when the data set is registered"
            )
        categories.append(classes)
    return categories
