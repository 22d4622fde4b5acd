# SPDX-License-Identifier: Apache-2.0
"""The record of how metrics came about, which every evaluation writes beside them."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage

import longtail

# Whose versions a metric may depend on.
_PACKAGES = ("torch", "detectron2", "timm", "numpy", "pillow", "pycocotools")


def provenance(cfg: CfgNode) -> dict[str, Any]:
    """Describe where metrics come from: config, code and machine.

    Args:
        cfg: the complete config of the training run or evaluation.

    Returns:
        A dict to be written as JSON,
        ``{"config": the YAML text, "seed", "weights", "device", "versions": {package: version},
        "commit"}``; ``commit`` is None for an installation that is no git checkout, and ends in
        ``-dirty`` where files differ from it.
    """
    device = cfg.MODEL.DEVICE
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "config": cfg.dump(),
        "seed": cfg.SEED,
        "weights": cfg.MODEL.WEIGHTS,
        "device": torch.cuda.get_device_name(device) if on_gpu else device,
        "versions": _versions(),
        "commit": _commit(Path(longtail.__file__).resolve().parents[1]),
    }


def moment(max_iter: int) -> dict[str, Any]:
    """Tell when an evaluation takes place.

    Args:
        max_iter: iterations of the whole training run.

    Returns:
        ``{"time": in UTC, "iteration": iterations that the model was trained for}``; the second is
        None outside a training run.
    """
    try:
        # Counted from 0 during an iteration, and as many as there were after the last one.
        iteration = min(get_event_storage().iter + 1, max_iter)
    except AssertionError:
        iteration = None
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"time": now.isoformat(timespec="seconds"), "iteration": iteration}


def _versions() -> dict[str, str]:
    versions = {"longtail": longtail.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


# Once: the code that runs is that of the start, whatever happens to the files meanwhile.
@functools.cache
def _commit(folder: Path) -> str | None:
    """The commit that a checkout stands at; None where there is none, or no git."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", os.fspath(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
