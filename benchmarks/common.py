# SPDX-License-Identifier: Apache-2.0
"""What every benchmark records beside its figures: machine, versions, command, date."""

import datetime
import multiprocessing
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longtail.utils.cores import available_cores
from longtail.utils.io import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def save_result(name: str, figures: dict[str, Any], results: Path = RESULTS) -> Path:
    """Write ``figures`` to ``results/name.json`` with what is needed to repeat them.

    Args:
        name: file name without ending.
        figures: the measurement, JSON-encodable.
        results: the folder.

    Returns:
        The file that was written.
    """
    # Of python -m benchmarks.NAME the module, otherwise the script.
    spec = sys.modules["__main__"].__spec__
    script = ["-m", spec.name] if spec else [os.path.relpath(sys.argv[0])]
    command = " ".join(["python", *script, *sys.argv[1:]])
    path = Path(results) / f"{name}.json"
    write_json(
        path,
        {
            "benchmark": name,
            "date": datetime.date.today().isoformat(),
            "command": command,
            "machine": machine(),
            "figures": figures,
        },
    )
    print(f"written: {os.path.relpath(path)}")
    return path


def in_child(function: Any, *args: Any) -> Any:
    """What ``function(*args)`` returns in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def memory(kind: str) -> float:
    """MB that this process holds (``VmRSS``) or held at most (``VmHWM``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 2**10
    raise RuntimeError(f"/proc/self/status has no {kind}")


def start_memory() -> float:
    """MB that this process holds; its peak counts from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
