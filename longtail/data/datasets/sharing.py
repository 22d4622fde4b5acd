# SPDX-License-Identifier: Apache-2.0
"""Records that are read once, although several parts of a start ask for them."""

import contextlib
from collections.abc import Callable, Iterator

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata


@contextlib.contextmanager
def records_read_once() -> Iterator[None]:
    """Let ``DatasetCatalog.get`` read each data set once in this process, until the context ends.

    Checks, class statistics and the training loader ask for the same records one after the other,
    and detectron2's functions among them, so that the catalog itself has to remember. A data set
    that is registered anew meanwhile, or gets other metadata, is read again. Each caller has a
    list of its own; the records in it are shared, and nobody may change them.
    """
    if "get" in vars(DatasetCatalog):
        # Within another such context, which remembers already.
        yield
        return
    kept: dict[str, tuple[Callable, Metadata, list[dict]]] = {}
    read = DatasetCatalog.get

    def get(name: str) -> list[dict]:
        if name in kept and name in DatasetCatalog:
            load, metadata, records = kept[name]
            if DatasetCatalog[name] is load and MetadataCatalog.get(name) is metadata:
                return list(records)
        records = read(name)
        if not isinstance(records, list):
            # detectron2 also takes a torch Dataset, which reads by itself.
            return records
        # What was there before the reading may have been completed by it, not replaced.
        kept[name] = DatasetCatalog[name], MetadataCatalog.get(name), records
        return list(records)

    DatasetCatalog.get = get
    try:
        yield
    finally:
        del DatasetCatalog.get
