# SPDX-License-Identifier: Apache-2.0
"""Data sets that a small YAML file declares, so that data of one's own need no program.

The file names each data set and says what it is made of; its paths are relative to its folder::

    road_train:
      kind: sem_seg
      images: images/train
      labels: labels/train
      classes: [road, car, sign]

:mod:`~longtail.data.datasets.declarations` knows the kinds and their keys. The file is data from
strangers: it is read as plain YAML and checked as a whole before anything of it is registered.
"""

import os
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog

from longtail.data.datasets.declarations import Declaration, read_declaration
from longtail.utils.errors import one_line
from longtail.utils.text import read_text

# No list of classes is longer: more is another file, or one made to take all memory.
MAX_BYTES = 4_000_000
# What was registered here, by the names.
_DECLARED: dict[str, Declaration] = {}


class _Loader(yaml.SafeLoader):
    """Plain YAML, where a key that stands twice is an error and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: set[Hashable] = set()
        for key_node in own:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: {key!r} is there twice")
            seen.add(key if isinstance(key, Hashable) else repr(key))
        return super().construct_mapping(node, deep)


def register_data_files(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Register all data sets that some files declare; nothing if one of them is wrong.

    Only what the files name in place of lists, such as the names of classes, is read. A data set
    that is declared again with the same content stays as it is.

    Args:
        paths: YAML files.

    Returns:
        The names, in their order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is not a declaration of data sets; or a name is that of another data
            set. The message starts with the path.
    """
    found = [declaration for path in paths for declaration in read_data_file(path)]
    new: dict[str, Declaration] = {}
    for declaration in found:
        name = declaration.name
        other = new.get(name) or _DECLARED.get(name)
        if other is None and name in DatasetCatalog.list():
            raise ValueError(
                f"{declaration.path}: {name} is the name of a data set that is registered already, "
                "by a program or a package: choose another name"
            )
        if other is not None and other.content != declaration.content:
            raise ValueError(
                f"{declaration.path}: {name} is declared in {other.path} with other content: "
                "choose another name, or correct one of the two"
            )
        if other is None or name not in DatasetCatalog.list():
            new[name] = declaration
    for name, declaration in new.items():
        declaration.register()
        _DECLARED[name] = declaration
    return [declaration.name for declaration in found]


def read_data_file(path: str | os.PathLike) -> list[Declaration]:
    """Read and check the declarations of a file.

    Raises:
        FileNotFoundError, ValueError: as :func:`register_data_files`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} does not exist: correct its path")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size / 1e6:.0f} MB, and no declaration of data sets has "
            f"more than {MAX_BYTES / 1e6:.0f}: name the YAML file"
        )
    try:
        content = _parsed(path)
        return [read_declaration(name, value, path) for name, value in content.items()]
    except (ValueError, FileNotFoundError, RecursionError) as error:
        message = one_line(error)
        raise ValueError(
            message if message.startswith(os.fspath(path)) else f"{path}: {message}"
        ) from None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(read_text(path), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML ({one_line(error)})") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(
            "expected data sets, each a name with its keys (kind, images, ...) below it, got "
            f"{'nothing' if not content else type(content).__name__}"
        )
    return content
