# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or absent, also after a crash."""

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# The names that atomic_write gives files until they are whole.
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
# The disk, the user's share of it, or the largest file that is allowed.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears under ``path`` only once it is completely written.

    The content goes to a temporary file in the same folder, which replaces ``path`` at the end;
    after an exception (or a kill) whatever stood at ``path`` before is untouched. It is on the
    disk, not only in the system's memory, before it has its name: a power failure leaves no empty
    file.

    Args:
        path: the file to write; missing parent folders are made.
        mode: ``"w"`` for UTF-8 text, ``"wb"`` for bytes.

    Raises:
        ValueError: ``mode`` is neither of the two.
        OSError: the file cannot be written; the message names it, and on a full disk how much
            was written and how much is free. A folder, a device or a pipe is not replaced.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write: mode must be 'w' or 'wb', got {mode!r}")
    path = Path(path)
    if path.exists() and not path.is_file():
        # The system's administrator could replace /dev/null.
        raise OSError(errno.EINVAL, "not a regular file: name another path", str(path))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, encoding="utf-8" if mode == "w" else None) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            finally:
                written = os.fstat(file.fileno()).st_size
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        _remove(temporary)
        if full := full_disk(error):
            raise _explained(full.errno, path, written) from error
        if isinstance(error, OSError) and error.filename in map(str, (temporary, *path.parents)):
            # Of our own making; what the caller opens has a message of its own. Nobody knows the
            # temporary file.
            named = str(path) if error.filename == str(temporary) else error.filename
            message = f"{error.strerror}: name another path, or see to it that this can be written"
            raise OSError(error.errno, message, named) from error
        # A write says only what went wrong.
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk that an error is or hides, as those of torch's zip files do."""
    while error is not None and getattr(error, "errno", None) not in NO_SPACE:
        error = error.__context__
    return error


def _explained(number: int, path: Path, written: int) -> OSError:
    # Now that the unfinished file is gone.
    free = _free(path.parent)
    return OSError(
        number,
        f"{os.strerror(number)} after {written / 1e6:.1f} MB of the file, nothing of which is "
        f"kept; {free / 1e6:.1f} MB are free there: make room, or name another folder",
        str(path),
    )


def _free(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free
    return 0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the name of a new file to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporary_files(folder: str | os.PathLike) -> int:
    """Remove what writers that were killed have left below a folder that nobody writes to now.

    Args:
        folder: searched with all folders below it.

    Returns:
        The bytes that were freed.
    """
    freed = 0
    for path in list(Path(folder).rglob(".*.tmp")):
        # Those in a folder go with it.
        if not TEMPORARY.fullmatch(path.name) or not path.exists():
            continue
        if path.is_dir():
            freed += sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            shutil.rmtree(path, ignore_errors=True)
        else:
            freed += path.stat().st_size
            _remove(path)
    return freed


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is written as ``null``.

    Args:
        path: the file to write.
        value: whatever ``json`` can encode.
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
