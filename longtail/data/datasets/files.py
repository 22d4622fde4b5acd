# SPDX-License-Identifier: Apache-2.0
"""Files by the name that images and their labels share."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from longtail.utils.text import read_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
# Files that one expects beside images and label maps.
NO_IMAGES = frozenset({".csv", ".db", ".html", ".ini", ".json", ".md", ".txt", ".xml", ".yaml"})
# So many of the items that are wrong, or left out, are named.
SHOWN = 3


def files_by_stem(
    folder: str, suffixes: Iterable[str], *, sub_folders: bool = False
) -> dict[str, str]:
    """List the files of ``folder`` by their names without suffix.

    Hidden files are left out: unpacking and interrupted copies leave such behind.

    Args:
        folder: an existing folder.
        suffixes: the file name endings to take, with their dot, such as ``.jpg`` or
            ``_leftImg8bit.png``; case does not matter.
        sub_folders: whether files below its sub-folders are taken as well; their names are then
            their paths relative to ``folder``, with forward slashes.

    Returns:
        ``{"a": "folder/a.jpg", ...}`` in the order of the names.

    Raises:
        ValueError: two files differ in their suffix alone.
    """
    suffixes = tuple(suffix.lower() for suffix in suffixes)
    found: dict[str, str] = {}
    for file_name in _names_below(folder) if sub_folders else sorted(os.listdir(folder)):
        name = file_name.lower()
        suffix = next((suffix for suffix in suffixes if name.endswith(suffix)), None)
        if suffix is None or os.path.basename(name).startswith("."):
            continue
        stem = file_name[: -len(suffix)]
        path = os.path.join(folder, file_name)
        if stem in found:
            raise ValueError(
                f"{found[stem]} and {path} share the name {stem!r}: keep one of the two"
            )
        found[stem] = path
    return dict(sorted(found.items()))


def _names_below(folder: str) -> list[str]:
    """All files below a folder, each folder once, also where links lead back."""
    names, seen = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [f for f in folders if not f.startswith(".")]
        if real not in seen:
            names += [os.path.relpath(os.path.join(parent, file), folder) for file in files]
        seen.add(real)
    return sorted(name.replace(os.sep, "/") for name in names)


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


def missing_files(folder: str, files: Sequence[str]) -> list[str]:
    """List the files that are not there.

    One listing a folder: a look at each of a million takes minutes.

    Args:
        folder: which the files are relative to.
        files: paths with forward slashes.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, name = posixpath.split(file)
        if parent not in listed:
            try:
                listed[parent] = set(os.listdir(os.path.join(folder, parent)))
            except (FileNotFoundError, NotADirectoryError):
                listed[parent] = set()
        if name not in listed[parent]:
            missing.append(file)
    return missing


def check_files_exist(folder: str, files: Sequence[str], hint: str = "") -> None:
    """Refuse a data set some of whose images are not there, before a training meets the first.

    Args:
        folder: of the images, for the message.
        files: their paths.
        hint: how to get them.

    Raises:
        FileNotFoundError: an image is missing.
    """
    missing = missing_files("", files)
    if missing:
        names = [os.path.relpath(file, folder) for file in missing[:SHOWN]]
        more = ", ..." if len(missing) > SHOWN else ""
        remedy = hint or "add them, or correct the folder of the images"
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images are not in {folder} ({', '.join(names)}{more});"
            f" {remedy}"
        )


def shown(items: Sequence[Any]) -> str:
    """The first of some items, in one line."""
    return ", ".join(map(str, items[:SHOWN])) + (", ..." if len(items) > SHOWN else "")
