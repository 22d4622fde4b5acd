# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or absent, also after a crash."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears under ``path`` only once it is completely written.

    The content goes to a temporary file in the same folder, which replaces ``path`` at the end;
    after an exception (or a kill) whatever stood at ``path`` before is untouched.

    Args:
        path: the file to write; missing parent folders are made.
        mode: ``"w"`` for UTF-8 text, ``"wb"`` for bytes.

    Raises:
        ValueError: ``mode`` is neither of the two.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write: mode must be 'w' or 'wb', got {mode!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, mode, encoding="utf-8" if mode == "w" else None) as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is written as ``null``.

    Args:
        path: the file to write.
        value: whatever :mod:`json` can encode.
    """
    with atomic_write(path) as file:
        json.dump(_without_nan(value), file, indent=1, allow_nan=False)
        file.write("\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value
