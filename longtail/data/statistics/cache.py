# SPDX-License-Identifier: Apache-2.0
"""Files that keep what was counted until a data set changes."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from longtail.utils.io import write_json
from longtail.utils.text import as_file_name

logger = logging.getLogger(__name__)
T = TypeVar("T")


def cache_file(folder: str, dataset_name: str, key: str) -> Path:
    """The file in ``${LONGTAIL_CACHE:-~/.cache/longtail}/FOLDER`` of a data set as it is now.

    Args:
        folder: a name for what is kept.
        dataset_name: the registered name.
        key: the fingerprint of the data set.
    """
    root = Path(os.environ.get("LONGTAIL_CACHE") or "~/.cache/longtail").expanduser()
    return root / folder / f"{as_file_name(dataset_name)}-{key[:12]}.json"


def write_sealed(
    path: Path, dataset_name: str, key: str, values: dict[str, Any], *, warns: bool = True
) -> bool:
    """Write a file with a checksum against damage and hand edits.

    Args:
        path: of :func:`cache_file`.
        dataset_name: the registered name.
        key: the fingerprint of the data set.
        values: plain values for JSON.
        warns: whether a warning says that the folder could not be written.

    Returns:
        Whether the folder could be written.
    """
    content = {"fingerprint": key, **values}
    try:
        write_json(path, {"dataset": dataset_name, "checksum": _checksum(content), **content})
    except OSError as error:
        if warns:
            logger.warning(
                f"class statistics of {dataset_name} are not cached ({error}); they will be "
                "counted again next time, unless LONGTAIL_CACHE names a folder that can be written"
            )
        return False
    return True


def read_sealed(path: Path, key: str, build: Callable[[dict[str, Any]], T]) -> T | None:
    """Read what :func:`write_sealed` wrote; None (with a warning) if it is absent or not intact.

    Args:
        path: of :func:`cache_file`.
        key: the fingerprint of the data set.
        build: from the values; a ValueError tells that they are not what was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        values = {name: v for name, v in content.items() if name not in ("dataset", "checksum")}
        if values.get("fingerprint") != key or _checksum(values) != content.get("checksum"):
            raise ValueError("its checksum is wrong")
        return build(values)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        logger.warning(f"{path} is damaged ({error}); the class statistics are counted again")
        return None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
