# SPDX-License-Identifier: Apache-2.0
"""Files by the name that images and their labels share."""

import os
from collections import Counter
from collections.abc import Iterable

from longtail.utils.text import read_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Files that one expects beside images and label maps.
NO_IMAGES = frozenset({".csv", ".db", ".html", ".ini", ".json", ".md", ".txt", ".xml", ".yaml"})
# So many endings that are left out are named.
SHOWN = 3


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


def left_out(folder: str, suffixes: Iterable[str], hint: str) -> str:
    """Say what :func:`files_by_stem` does not take: sub-folders, and files with other endings.

    Files that cannot be meant, such as lists and descriptions, are not said.

    Args:
        folder: an existing folder.
        suffixes: as for :func:`files_by_stem`.
        hint: what to do about files with other endings.

    Returns:
        Such as ``"left out of images: 2 files with .tif (set image_ext)"``; empty if there is
        nothing of the kind.
    """
    suffixes = tuple(suffixes)
    endings: Counter[str] = Counter()
    folders = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders += 1
            elif suffix not in suffixes and suffix not in NO_IMAGES:
                endings[suffix] += 1
    parts = [
        f"{_number(n, 'file')} {f'with {suffix}' if suffix else 'without ending'}"
        for suffix, n in sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    ]
    parts = [f"{', '.join(parts)} ({hint})"] if parts else []
    if folders:
        parts.append(f"{_number(folders, 'sub-folder')} (not searched)")
    return f"left out of {folder}: {', '.join(parts)}" if parts else ""


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def read_stems(path: str) -> list[str]:
    """Read the names in a text file, one a line; empty lines are skipped.

    Args:
        path: the file.

    Returns:
        The names, in the order of the file.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
