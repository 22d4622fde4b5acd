# SPDX-License-Identifier: Apache-2.0
"""Data sets that are one annotation file: whether they have changed is told without reading it.

Parsing LVIS v1's takes half a minute and gigabytes, its SHA-256 a second, and that one is kept.
"""

import functools
import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from longtail.data.statistics.cache import cache_file, read_sealed, write_sealed
from longtail.data.statistics.counting import COUNTING_VERSION, class_metadata
from longtail.utils.downloads import file_sha256

# What is registered by detectron2 and by us, and reads one file, whatever else there is.
DETECTRON2_LOADERS = {
    ("detectron2.data.datasets.coco", "register_coco_instances.<locals>.<lambda>"),
    ("detectron2.data.datasets.lvis", "register_lvis_instances.<locals>.<lambda>"),
}
# By name: the module imports this package.
OUR_LOADER = ("longtail.data.datasets.lvis", "load_lvis_json")
# A file may change twice within a step of its file system's clock, so that only its content tells.
SETTLED_NS = 2 * 10**9
# What of the metadata decides which class a category of the file is.
CLASS_KEYS = ("thing_classes", "thing_dataset_id_to_contiguous_id", "coco_json")


def annotation_file(dataset_name: str) -> str | None:
    """Name the one file that a registered data set's classes and instances are read from.

    Args:
        dataset_name: a name in detectron2's ``DatasetCatalog``.

    Returns:
        The file; None if it is not there, or the registered function is not known to read one
        file alone: not detectron2's or our loader of COCO's and LVIS's JSON.
    """
    path = _file_read_by(DatasetCatalog[dataset_name])
    return path if path is not None and os.path.isfile(path) else None


def file_fingerprint(dataset_name: str, path: str) -> str:
    """Compute a hexadecimal SHA-256 that changes whenever the counts of the data set may have.

    It covers the content of the file and the metadata that tell which class a category is. The
    digest of the content is kept in ``${LONGTAIL_CACHE:-~/.cache/longtail}/file_digests`` as long
    as path, size and time of modification are the same.

    Args:
        dataset_name: the registered name.
        path: of :func:`annotation_file`.

    Raises:
        OSError: the file cannot be read.
    """
    metadata = class_metadata(dataset_name)
    classes = [_plain(metadata.get(key)) for key in CLASS_KEYS]
    header = json.dumps([COUNTING_VERSION, classes, _kept_digest(path)])
    return hashlib.sha256(header.encode()).hexdigest()


def _file_read_by(load: Callable[[], list[dict]]) -> str | None:
    """The file's path in the arguments of a known loader."""
    path = None
    if isinstance(load, functools.partial):
        path = load.args[0] if _origin(load.func) == OUR_LOADER and load.args else None
    elif _origin(load) in DETECTRON2_LOADERS:
        path = inspect.getclosurevars(load).nonlocals.get("json_file")
    return None if path is None else os.fspath(path)


def _origin(function: Callable) -> tuple[str, str]:
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")


def _kept_digest(path: str) -> str:
    status = os.stat(path)
    path = os.path.abspath(path)
    state = json.dumps([path, status.st_size, status.st_mtime_ns])
    key = hashlib.sha256(state.encode()).hexdigest()
    kept = cache_file("file_digests", Path(path).name, key)
    digest = read_sealed(kept, key, lambda values: str(values.get("sha256")))
    if digest is None:
        digest = file_sha256(path)
        if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
            # Where this fails, so do the statistics, which say so.
            write_sealed(kept, path, key, {"sha256": digest}, warns=False)
    return digest


def _plain(value: Any) -> Any:
    """Values for JSON; a mapping as pairs, since keys of JSON are strings."""
    return sorted(value.items()) if isinstance(value, dict) else value
