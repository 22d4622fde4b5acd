# SPDX-License-Identifier: Apache-2.0
"""All that a GPU has to show, the most valuable first, within a given time.

    bash benchmarks/device/run.sh --wheels WHEELS day --seconds 480 --output results
    bash benchmarks/device/run.sh day --tiny        # the same on a CPU, with tiny sizes

Each step (steps.py) is a process of its own with a limit of its own: one that hangs or fails costs
its time and nothing else. After each step device.json has all results so far, log.txt all that was
said. The last lines are a table. None of this has run on a GPU yet.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import save_result
from tabulate import tabulate

STEPS = Path(__file__).with_name("steps.py")
# In this order, with the seconds that each may take; what one does not need is left to the others.
LIMITS = {
    "tests": 110,
    "throughput deeplabv3plus_R_50c_160k": 45,
    "throughput upernet_swin_T_160k": 45,
    "throughput upernet_beit_L_160k": 90,
    "disalign": 40,
    "evaluation": 40,
    "loader": 35,
    "compile": 75,
}
TINY_LIMIT = 600
SOON = 5  # seconds; with less nothing is begun


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="in all (default: 480, --tiny: no limit)")
    parser.add_argument("--output", type=Path, default=Path("output/device"), metavar="DIR")
    parser.add_argument("--steps", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="NAME")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU")
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = float("inf") if options.tiny else 480
    return options


def run_step(command: Sequence[str], limit: float, log: Path) -> str:
    """Run a process, with all that it starts, for some seconds at most.

    Args:
        command: of the process.
        limit: seconds.
        log: what it says is added to this file.

    Returns:
        ``"done"``, ``"failed"`` or ``"stopped after ... s"``.
    """
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            # Its children, too, and those of a step that has left some behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the steps; what was found of each, as it is in device.json."""
    start = time.monotonic()
    found: dict[str, Any] = {}
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "log.txt"
    log.unlink(missing_ok=True)
    for name in options.steps:
        left = options.seconds - (time.monotonic() - start)
        limit = min(TINY_LIMIT if options.tiny else LIMITS[name], left)
        if limit < SOON:
            found[name] = {"state": "no time was left"}
            continue
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = [sys.executable, str(STEPS), *name.split(), "--output", str(result)]
            state = run_step(command + ["--tiny"] * options.tiny, limit, log)
            figures = json.loads(result.read_text()) if result.is_file() else None
        seconds = round(time.monotonic() - begin, 1)
        found[name] = {"state": state, "seconds": seconds, "figures": figures}
        print(f"{time.monotonic() - start:.0f} s: {name}: {state} ({seconds} s)", flush=True)
        save_result("device", {"tiny": options.tiny, "steps": found}, options.output)
    return found


def lines(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All single values of nested results, by their names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from lines(inner, f"{name} / {key}" if name else str(key))
    elif not isinstance(value, list):
        yield name, value


def main() -> None:
    """Run the steps, and print the table."""
    found = run(parse_arguments())
    rows = [[name[:90], value] for name, value in lines(found)]
    print(tabulate(rows, ["", "found"], floatfmt=".4g"))


if __name__ == "__main__":
    main()
