# SPDX-License-Identifier: Apache-2.0
"""Paths that a list or a JSON file names, which must stay below the folder of the images."""

import os
import re

# An absolute path (of a drive, too), a part "..", or a character that no path has.
_LEAVES = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|\0")


def check_relative(path: object) -> None:
    """Refuse a path that would lead out of its folder.

    Args:
        path: as it stands in the file.

    Raises:
        ValueError: it is not text, is empty or absolute, or has the part ``..``.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"the path {path!r} is not the name of a file: correct it")
    if _LEAVES.search(path):
        raise ValueError(
            f"the path {path!r:.200} leads out of the folder of the images: name files below it, "
            "relative to it and without '..'"
        )


def path_below(folder: str | os.PathLike, path: object, where: str) -> str:
    """Join a folder and a path that a file names.

    Args:
        folder: the folder that the path is relative to.
        path: as it stands in the file, with forward slashes.
        where: the place in the file, which the error starts with.

    Raises:
        ValueError: as :func:`check_relative`.
    """
    try:
        check_relative(path)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return os.path.join(folder, path)
