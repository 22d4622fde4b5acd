# SPDX-License-Identifier: Apache-2.0
"""What a config names of one's own: Python modules, and files that declare data sets.

A config is data. Modules are imported only where whoever runs the program has named them, too.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode

from longtail.utils.errors import first_line


class _WorkingFolder(MetaPathFinder):
    """Finds modules in the folder that the program was started in, after all installed ones."""

    def __init__(self) -> None:
        self.folder = os.getcwd()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self.folder]) if path is None else None


def import_modules(names: Sequence[str]) -> None:
    """Import modules of one's own, which are installed or in the working folder.

    Args:
        names: dotted names.

    Raises:
        ImportError: there is no such module, or it fails; the message names its file and line.
    """
    if names and not any(isinstance(finder, _WorkingFolder) for finder in sys.meta_path):
        sys.meta_path.append(_WorkingFolder())
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ImportError(
                f"--import {name}: expected the name of a module, such as my_module for the file "
                "my_module.py in this folder"
            )
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise ImportError(_failure(name, error)) from error
            raise ImportError(
                f"--import {name}: there is no module {error.name}, neither installed nor in "
                f"{os.getcwd()}"
            ) from None
        except Exception as error:
            raise ImportError(_failure(name, error)) from error


def _failure(name: str, error: Exception) -> str:
    """Where a module of somebody's fails: whoever wrote it needs the line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    file, line = frame.filename, frame.lineno
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    return f"--import {name}: {file}, line {line}: {type(error).__name__}: {first_line(error)}"


def check_imports(cfg: CfgNode, config_file: str, allowed: Sequence[str]) -> None:
    """Refuse a config that needs modules which nobody has allowed; note those that were imported.

    Args:
        cfg: a merged config; its IMPORTS become the modules that were imported.
        config_file: for the message.
        allowed: what the command line names.

    Raises:
        ValueError: IMPORTS names another module.
    """
    missing = [name for name in cfg.IMPORTS if name not in allowed]
    if missing:
        options = " ".join(f"--import {name}" for name in missing)
        raise ValueError(
            f"config {config_file or 'options'}: IMPORTS names {', '.join(map(str, missing))}, "
            "which is code, and a config alone may not run any: if you trust it, allow it with "
            f"{options}"
        )
    cfg.IMPORTS = [*cfg.IMPORTS, *(name for name in allowed if name not in cfg.IMPORTS)]


def find_data_files(
    cfg: CfgNode, config_file: str, chain: Sequence[tuple[str, Any]], overrides: Sequence[Any]
) -> list[str]:
    """Find the files of DATASETS.FILES: beside the config that names them, or in this folder.

    Args:
        cfg: a merged config.
        config_file: for the message.
        chain: files and contents of the config and its bases, the config first.
        overrides: keys and values that took the place of the files'.

    Raises:
        FileNotFoundError: there is no such file.
    """
    folders = [os.getcwd()]
    if "DATASETS.FILES" not in list(overrides)[::2]:
        naming = (p for p, content in chain if "FILES" in (content.get("DATASETS") or ()))
        folders[:0] = [os.path.dirname(os.path.abspath(path)) for path in naming][:1]
    found = []
    for name in cfg.DATASETS.FILES:
        paths = [os.path.normpath(os.path.join(folder, str(name))) for folder in folders]
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is None:
            raise FileNotFoundError(
                f"config {config_file or 'options'}: DATASETS.FILES names {name}, which is not in "
                f"{' or '.join(dict.fromkeys(folders))}"
            )
        found.append(path)
    return found
