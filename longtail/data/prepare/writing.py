# SPDX-License-Identifier: Apache-2.0
"""Files that are only written where they differ from what is there."""

import os

from longtail.utils.io import atomic_write


def holds(path: str | os.PathLike, content: bytes) -> bool:
    """Tell whether a file exists and has this content."""
    try:
        with open(path, "rb") as file:
            return file.read() == content
    except FileNotFoundError:
        return False


def write_if_changed(path: str | os.PathLike, content: bytes) -> bool:
    """Write a file, atomically, unless it already has this content.

    Returns:
        Whether it was written.
    """
    if holds(path, content):
        return False
    with atomic_write(path, "wb") as file:
        file.write(content)
    return True
