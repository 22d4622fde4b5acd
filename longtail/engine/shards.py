# SPDX-License-Identifier: Apache-2.0
"""Files of torch.distributed.checkpoint, read without running code from them.

torch reads ``.metadata`` by pickle, which runs whatever the file names. Here it may name what such
metadata consist of, and nothing else; tensors are read by torch with ``weights_only``.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

METADATA = ".metadata"
_PARTS = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties"),
        *("ChunkStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        of_torch = module == "torch" and (
            name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)
        )
        # A dotted name would reach into a module.
        if of_torch or name in _PARTS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not loaded")


class ShardReader(FileSystemReader):
    """torch's reader of a folder of shards, for files that need not be trusted."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read what the folder holds.

        Raises:
            OSError: there is no such file.
            pickle.UnpicklingError: it names something else than parts of metadata.
        """
        with open(Path(self.path) / METADATA, "rb") as file:
            metadata = _Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def cut_short(folder: Path) -> str | None:
    """Name a file of a folder of shards that is shorter than the metadata say; None if none is.

    Raises:
        As :meth:`ShardReader.read_metadata`.
    """
    for part in ShardReader(folder).read_metadata().storage_data.values():
        file = folder / part.relative_path
        if not file.is_file() or file.stat().st_size < part.offset + part.length:
            return f"{part.relative_path} is missing or cut short"
    return None
