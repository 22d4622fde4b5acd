# SPDX-License-Identifier: Apache-2.0
"""Evaluate trained models with one process and with two, and compare all that is written.

    python benchmarks/two_processes.py [--output output/kills]

The models are the unbroken runs of benchmarks/kills.py, which are trained if they are not there.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import save_result
from kills import Bench

NAMES = ("segmentation with RR", "Mask R-CNN", "classification, random subset")


def evaluated(bench: Bench, name: str, processes: int) -> dict[str, Any]:
    """What an evaluation writes, by file."""
    output = bench.folder / "evaluated" / f"{processes}"
    shutil.rmtree(output, ignore_errors=True)
    weights = bench.reference(name) / "model_final.pth"
    command = [*bench.command(name, output, resume=False), "MODEL.WEIGHTS", str(weights)]
    command[1:1] = ["--eval-only"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        launcher += [str(processes), "-m", "longtail"]
    else:
        launcher = ["-m", "longtail"]
    with open(bench.log, "ab") as log:
        done = subprocess.run(
            [sys.executable, *launcher, *command], env=bench.environment, stdout=log, stderr=log
        )
    if done.returncode:
        raise SystemExit(f"error: {name}: the evaluation has failed: see {bench.log}")
    files = sorted((output / "inference").rglob("*.json"))
    return {str(path.relative_to(output)): _without_origin(path) for path in files}


def _without_origin(path: Path) -> Any:
    """A report without its time."""
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content.pop("provenance", None)
    return content


def main() -> None:
    """Compare and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/kills"))
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.output.resolve())
    figures = {}
    for name in NAMES:
        one, two = (evaluated(bench, name, processes) for processes in (1, 2))
        different = sorted(
            file for file in one.keys() | two.keys() if one.get(file) != two.get(file)
        )
        figures[name] = {"files": len(one), "files that differ": different}
        print(name, figures[name], flush=True)
    if not options.no_save:
        save_result("two_processes", figures)


if __name__ == "__main__":
    main()
