# SPDX-License-Identifier: Apache-2.0
"""The folder of all data sets, and files by the name that images and their labels share."""

import os
from collections.abc import Iterable

from longtail.utils.text import read_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def datasets_root() -> str:
    """Name the folder of all data sets: ``$DETECTRON2_DATASETS``, or ``datasets`` without it."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def files_by_stem(folder: str, suffixes: Iterable[str]) -> dict[str, str]:
    """List the files of ``folder`` (not of its sub-folders) by their names without suffix.

    Hidden files are left out: unpacking and interrupted copies leave such behind.

    Args:
        folder: an existing folder.
        suffixes: the file name endings to take, lower case, with their dot; the case of the
            files' own endings does not matter.

    Returns:
        ``{"a": "folder/a.jpg", ...}`` in the order of the names.

    Raises:
        ValueError: two files differ in their suffix alone.
    """
    suffixes = tuple(suffixes)
    found: dict[str, str] = {}
    for file_name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(file_name)
        if suffix.lower() not in suffixes or file_name.startswith("."):
            continue
        path = os.path.join(folder, file_name)
        if stem in found:
            raise ValueError(
                f"{found[stem]} and {path} share the name {stem!r}: keep one of the two"
            )
        found[stem] = path
    return dict(sorted(found.items()))


def read_stems(path: str) -> list[str]:
    """Read the names in a text file, one a line; empty lines are skipped.

    Args:
        path: the file.

    Returns:
        The names, in the order of the file.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
