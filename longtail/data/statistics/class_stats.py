# SPDX-License-Identifier: Apache-2.0
"""Frequencies of the classes of a data set: the F of Eq. 7, the r_c of Eq. 11, PIF and RIF.

Shapes: K classes.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtail.data.statistics.annotation_file import annotation_file, file_fingerprint
from longtail.data.statistics.cache import (
    cache_file,
    read_sealed,
    write_sealed,
)
from longtail.data.statistics.counting import (
    ClassesOfImages,
    CountingSource,
    check_num_workers,
    class_metadata,
    count_instances,
    count_label_maps,
    count_labels,
    fingerprint,
    load_source,
)
from longtail.utils.distributed import from_main_process

COUNTS = ("pixel_count", "image_count", "instance_count")

# Training sets whose real counts come with the package, and their number of images.
PACKAGED = {"ade20k_sem_seg_train": 20210, "coco_stuff_164k_sem_seg_train": 118287}
FREQUENCIES = Path(__file__).with_name("frequencies")


def imbalance_factor(count: np.ndarray) -> float:
    """N_max / N_min (section 3.3.2 of the Region Rebalance paper); ``inf`` if a class never occurs.

    Leaving such a class out would call a data set balanced that lacks it.

    Args:
        count: (K,) how often each class occurs.
    """
    return float(count.max() / count.min()) if count.min() > 0 else math.inf


@dataclass(frozen=True, eq=False)
class ClassStats:
    """Counts of every class of a data set.

    Attributes:
        class_names: K names, in class-index order.
        num_images: number of images that were counted.
        pixel_count: (K,) int64, pixels of the class; None for a data set without label maps.
        image_count: (K,) int64, images that contain the class: the region frequency F of Eq. 7 of
            the Region Rebalance paper. From the label maps where there are some, otherwise from
            the instances, or from the labels of image classification.
        instance_count: (K,) int64, annotated instances without crowds; None for a data set that
            has no instances of these classes.

    Raises:
        ValueError: a count does not have K entries, or an entry is negative.
    """

    class_names: tuple[str, ...]
    num_images: int
    pixel_count: np.ndarray | None
    image_count: np.ndarray
    instance_count: np.ndarray | None

    def __post_init__(self) -> None:
        """Turn the counts into int64 arrays and check them."""
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for name in COUNTS:
            count = getattr(self, name)
            if count is None and name != "image_count":
                continue
            count = np.asarray(count, dtype=np.int64)
            if count.shape != (len(self.class_names),) or (count < 0).any():
                raise ValueError(
                    f"{name} must be one number >= 0 for each of the {len(self.class_names)} "
                    f"classes, got shape {count.shape}"
                )
            object.__setattr__(self, name, count)

    def __eq__(self, other: object) -> bool:
        """Compare all counts."""
        return isinstance(other, ClassStats) and self.to_dict() == other.to_dict()

    @property
    def pixel_imbalance_factor(self) -> float | None:
        """PIF: :func:`imbalance_factor` of the pixels; None if they were not counted."""
        return None if self.pixel_count is None else imbalance_factor(self.pixel_count)

    @property
    def region_imbalance_factor(self) -> float:
        """RIF: :func:`imbalance_factor` of the images that contain the class."""
        return imbalance_factor(self.image_count)

    def to_dict(self) -> dict[str, Any]:
        """Turn the counts into plain values for JSON, one entry a class."""
        columns = {"name": self.class_names}
        for name in COUNTS:
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name).tolist()
        rows = zip(*columns.values(), strict=True)
        classes = [dict(zip(columns, row, strict=True)) for row in rows]
        return {"num_images": int(self.num_images), "classes": classes}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClassStats":
        """Build from what :meth:`to_dict` gives.

        Raises:
            ValueError: ``values`` is not what :meth:`to_dict` gives.
        """
        try:
            classes = values["classes"]
            columns = {
                name: [row[name] for row in classes] if name in classes[0] else None
                for name in COUNTS
            }
            return cls(tuple(row["name"] for row in classes), int(values["num_images"]), **columns)
        except (KeyError, IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"no class statistics: {type(error).__name__} {error}") from error


def compute_class_stats(dataset_name: str, num_workers: int | None = None) -> ClassStats:
    """Count the classes of a registered data set in one pass over it, without any cache.

    Which labels are counted is described at :func:`longtail.data.statistics.counting.load_source`.

    Args:
        dataset_name: a name in detectron2's ``DatasetCatalog``.
        num_workers: threads that read label maps; by default one for each core.

    Raises:
        ValueError: the name is not registered, the data set is empty or not labelled, or a label
            map is truncated or has a label that is not a class.
        FileNotFoundError: the data set or one of its label maps is missing.
    """
    return _count(load_source(dataset_name), num_workers)[0]


def get_class_stats(
    dataset_name: str | Sequence[str], num_workers: int | None = None
) -> ClassStats:
    """Get the class statistics of one data set, or the sum over several, wherever they are.

    ADE20K's and COCO-Stuff164K's training counts come with the package. Others are counted once
    and kept in ``${LONGTAIL_CACHE:-~/.cache/longtail}/class_stats`` until the data set changes;
    COCO's and LVIS's JSON is not even parsed then (:mod:`.annotation_file`).
    In a distributed run every process must call this: the main process sends the result, or its
    error, to the others, which need not see its disk. If they do, each counts a part of the label
    maps.

    Args:
        dataset_name: a registered name, or several (``cfg.DATASETS.TRAIN``).
        num_workers: threads, should a pass be necessary; by default one for each core.

    Raises:
        ValueError: no name was given, the class names of several data sets differ, or as
            :func:`compute_class_stats`.
        FileNotFoundError: the data set or one of its label maps is missing.
    """
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
    if not names:
        raise ValueError("class statistics need a data set, but the list of names is empty")
    return from_main_process(
        lambda: _sum(names, [locate_class_stats(name, num_workers)[0] for name in names])
    )


def locate_class_stats(
    dataset_name: str, num_workers: int | None = None
) -> tuple[ClassStats, Path | None]:
    """Get the class statistics of one data set in this process alone, and their file.

    Returns:
        The statistics, and the file that holds them: in the package, or in the cache; None if the
        cache folder cannot be written.
    """
    check_num_workers(num_workers)
    class_names = tuple(class_metadata(dataset_name).get("stuff_classes") or ())
    if dataset_name in PACKAGED:
        path = FREQUENCIES / f"{dataset_name}_image_count.txt"
        image_count = np.loadtxt(path, dtype=np.int64)
        pixel_count = np.loadtxt(FREQUENCIES / f"{dataset_name}_pixel_count.txt", dtype=np.int64)
        # Somebody may have registered another class list under this name: that one is counted.
        if len(class_names) == len(image_count):
            num_images = PACKAGED[dataset_name]
            return ClassStats(class_names, num_images, pixel_count, image_count, None), path

    file = annotation_file(dataset_name)
    source = load_source(dataset_name) if file is None else None
    key = fingerprint(source) if file is None else file_fingerprint(dataset_name, file)
    path = cache_file("class_stats", dataset_name, key)
    stats = read_sealed(path, key, ClassStats.from_dict)
    if stats is not None:
        return stats, path
    source = load_source(dataset_name) if source is None else source
    stats, _, is_kept = _count_and_keep(source, key, num_workers)
    return stats, path if is_kept else None


def get_image_classes(
    dataset_names: Sequence[str], num_workers: int | None = None
) -> dict[str, dict[int, int]]:
    """Get the classes of every label map of data sets, and how many pixels of it each has.

    They come from the pass that counts the class statistics, are kept beside those in
    ``${LONGTAIL_CACHE:-~/.cache/longtail}/image_classes``, and shared as by
    :func:`get_class_stats`: when they are kept, no label map is opened.

    Args:
        dataset_names: registered data sets with label maps (``cfg.DATASETS.TRAIN``).
        num_workers: threads, should a pass be necessary; by default one for each core.

    Returns:
        By the absolute path of a label map: pixels (> 0) by class (0..K-1).

    Raises:
        ValueError: a data set has no label maps, or as :func:`compute_class_stats`.
        FileNotFoundError: the data set or one of its label maps is missing.
    """

    def get() -> dict[str, dict[int, int]]:
        found = {}
        for name in dataset_names:
            found.update(_image_classes(name, num_workers))
        return found

    return from_main_process(get)


def _image_classes(dataset_name: str, num_workers: int | None) -> dict[str, dict[int, int]]:
    source = load_source(dataset_name)
    if source.label_files is None:
        raise ValueError(
            f"data set {dataset_name!r} has no label maps whose classes can be counted"
        )
    key = fingerprint(source)
    path = cache_file("image_classes", dataset_name, key)
    # By the names below the common folder, like the fingerprint, which does not know the order.
    images = read_sealed(path, key, _images_from_dict)
    if images is None:
        images = _count_and_keep(source, key, num_workers)[1]
    names = source.names_of_label_maps()
    return {
        os.path.abspath(file): images[name]
        for file, name in zip(source.label_files, names, strict=True)
    }


def _images_from_dict(values: dict[str, Any]) -> dict[str, dict[int, int]]:
    try:
        return {name: dict(pairs) for name, pairs in values["images"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no classes of images: {type(error).__name__} {error}") from error


def _count_and_keep(
    source: CountingSource, key: str, num_workers: int | None
) -> tuple[ClassStats, dict[str, dict[int, int]] | None, bool]:
    """Count, and write what was counted into the cache; the last value: whether that worked."""
    stats, classes_of_images = _count(source, num_workers)
    name = source.dataset_name
    is_kept = write_sealed(cache_file("class_stats", name, key), name, key, stats.to_dict())
    if classes_of_images is None:
        return stats, None, is_kept
    images = dict(zip(source.names_of_label_maps(), classes_of_images, strict=True))
    if is_kept:
        pairs = {image: list(classes.items()) for image, classes in images.items()}
        write_sealed(cache_file("image_classes", name, key), name, key, {"images": pairs})
    return stats, images, is_kept


def _count(
    source: CountingSource, num_workers: int | None
) -> tuple[ClassStats, ClassesOfImages | None]:
    pixel_count = image_count = instance_count = classes_of_images = None
    if source.categories is not None:
        instance_count, image_count = count_instances(source)
    if source.label_files is not None:
        pixel_count, image_count, classes_of_images = count_label_maps(source, num_workers)
    if source.labels is not None:
        image_count = count_labels(source)
    if not image_count.any():
        raise ValueError(
            f"the data set {source.dataset_name} has nothing of any class: all is ignored, or not "
            "annotated"
        )
    names = source.class_names
    stats = ClassStats(names, source.num_images, pixel_count, image_count, instance_count)
    return stats, classes_of_images


def _sum(names: list[str], stats: list[ClassStats]) -> ClassStats:
    first = stats[0]
    for name, other in zip(names[1:], stats[1:], strict=True):
        if other.class_names != first.class_names:
            raise ValueError(
                f"data sets {names[0]!r} ({len(first.class_names)} classes) and {name!r} "
                f"({len(other.class_names)} classes) have different class names, so that their "
                "statistics cannot be added; train on data sets with one class list"
            )
    columns = {name: [getattr(item, name) for item in stats] for name in COUNTS}
    return ClassStats(
        first.class_names,
        sum(item.num_images for item in stats),
        **{
            name: None if any(count is None for count in counts) else np.sum(counts, axis=0)
            for name, counts in columns.items()
        },
    )
