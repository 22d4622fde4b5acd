# SPDX-License-Identifier: Apache-2.0
"""Frequencies of the classes of a data set: the F of Eq. 7, the r_c of Eq. 11, PIF and RIF.

Shapes: K classes.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from detectron2.utils import comm

from longtail.data.statistics.counting import (
    CountingSource,
    check_num_workers,
    class_metadata,
    count_instances,
    count_label_maps,
    count_labels,
    fingerprint,
    load_source,
)
from longtail.utils.io import write_json
from longtail.utils.text import as_file_name

logger = logging.getLogger(__name__)
T = TypeVar("T")
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
    return _count(load_source(dataset_name), num_workers)


def get_class_stats(
    dataset_name: str | Sequence[str], num_workers: int | None = None
) -> ClassStats:
    """Get the class statistics of one data set, or the sum over several, wherever they are.

    ADE20K's and COCO-Stuff164K's training counts come with the package. Others are counted once
    and kept in ``${LONGTAIL_CACHE:-~/.cache/longtail}/class_stats`` until the data set changes.
    In a distributed run every process must call this: the main process does the work and sends
    the result, or its error, to the others, which need not see its disk.

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
    return _from_main_process(
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

    source = load_source(dataset_name)
    key = fingerprint(source)
    path = _cache_file(dataset_name, key)
    stats = _read_cache(path, key)
    if stats is not None:
        return stats, path
    stats = _count(source, num_workers)
    try:
        write_json(path, {"dataset": dataset_name, **_sealed(stats, key)})
    except OSError as error:
        logger.warning(
            f"class statistics of {dataset_name} are not cached ({error}); they will be counted "
            "again next time, unless LONGTAIL_CACHE names a folder that can be written"
        )
        return stats, None
    return stats, path


def _count(source: CountingSource, num_workers: int | None) -> ClassStats:
    pixel_count = image_count = instance_count = None
    if source.categories is not None:
        instance_count, image_count = count_instances(source)
    if source.label_files is not None:
        pixel_count, image_count = count_label_maps(source, num_workers)
    if source.labels is not None:
        image_count = count_labels(source)
    if not image_count.any():
        raise ValueError(
            f"the data set {source.dataset_name} has nothing of any class: all is ignored, or not "
            "annotated"
        )
    names = source.class_names
    return ClassStats(names, source.num_images, pixel_count, image_count, instance_count)


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


def _cache_file(dataset_name: str, key: str) -> Path:
    root = Path(os.environ.get("LONGTAIL_CACHE") or "~/.cache/longtail").expanduser()
    return root / "class_stats" / f"{as_file_name(dataset_name)}-{key[:12]}.json"


def _sealed(stats: ClassStats, key: str) -> dict[str, Any]:
    """Build the content of a cache file, with a checksum against damage and hand edits."""
    content = {"fingerprint": key, **stats.to_dict()}
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"checksum": checksum, **content}


def _read_cache(path: Path, key: str) -> ClassStats | None:
    """Read a cache file; None (with a warning) if it is absent or not intact."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stats = ClassStats.from_dict(content)
        if _sealed(stats, key)["checksum"] != content.get("checksum"):
            raise ValueError("its checksum is wrong")
        return stats
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        logger.warning(f"{path} is damaged ({error}); the class statistics are counted again")
        return None


def _from_main_process(function: Callable[[], T]) -> T:
    """Call ``function`` in the main process, and share its result or its error with the others."""
    if comm.get_world_size() == 1:
        return function()
    message: list[Any] = [None, None, None]
    failure = None
    if comm.is_main_process():
        try:
            message[0] = function()
        except Exception as error:
            # Not the object itself: not every exception survives pickling.
            failure = error
            kinds = (FileNotFoundError, OSError, ValueError)
            kind = next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)
            message[1:] = [kind, str(error)]
    dist.broadcast_object_list(message, src=0)
    if failure is not None:
        raise failure
    if message[1] is not None:
        raise message[1](message[2])
    return message[0]
