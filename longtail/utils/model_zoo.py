# SPDX-License-Identifier: Apache-2.0
"""Models that were trained here and come with the package: ``longtail://CONFIG``.

``longtail://digit-scenes/upernet_resnet`` is the weights of the packaged config of this name.
Whatever detectron2 opens may be named so, as ``detectron2://`` names what is in its model zoo:
importing this module teaches it to detectron2's PathManager. A file is compared with its SHA-256
before it is used.
"""

import difflib
import json
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

import longtail
from longtail.utils.downloads import file_sha256

PREFIX = "longtail://"
ZOO = Path(longtail.__file__).resolve().parent / "model_zoo"
TABLE = "models.json"


def zoo_models() -> dict[str, dict[str, Any]]:
    """The models by name: ``{"sha256", "seed", "tested_on", "metrics"}`` of each."""
    return json.loads((ZOO / TABLE).read_text(encoding="utf-8"))


def zoo_config(address: str) -> str:
    """The name of the packaged config of a model.

    Args:
        address: ``longtail://`` and the name of a model.

    Raises:
        ValueError: there is no such model.
    """
    return f"{_name(address)}.yaml"


def zoo_weights(address: str) -> str:
    """The path of a model's weights.

    Args:
        address: ``longtail://`` and the name of a model.

    Raises:
        ValueError: there is no such model, or the file is not the one that was trained.
        FileNotFoundError: the file is missing.
    """
    name = _name(address)
    file = ZOO / f"{name}.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{address}: {file} is missing: install the package again")
    expected, found = zoo_models()[name]["sha256"], file_sha256(file)
    if found != expected:
        raise ValueError(
            f"{address}: {file} is not the file that was trained: its SHA-256 is {found}, not "
            f"{expected}; install the package again"
        )
    return str(file)


def _name(address: str) -> str:
    name, models = address.removeprefix(PREFIX), zoo_models()
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1)
        hint = f"did you mean {PREFIX}{near[0]}? " if near else ""
        raise ValueError(f"{address}: no such model; {hint}there are {', '.join(models)}")
    return name


class _ZooHandler(PathHandler):
    """What detectron2 opens by ``longtail://``."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return zoo_weights(path)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return path.removeprefix(PREFIX) in zoo_models()

    _exists = _isfile

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        return open(zoo_weights(path), mode, buffering)


PathManager.register_handler(_ZooHandler(), allow_override=True)
