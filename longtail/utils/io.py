"""Files that are either whole or absent, also after a crash."""

import contextlib
import json
import os
import tempfile
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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode, encoding="utf-8" if mode == "w" else None) as file:
            yield file
        # mkstemp makes private files; a data set or a result is to be read by others too.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
