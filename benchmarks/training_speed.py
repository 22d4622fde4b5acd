# SPDX-License-Identifier: Apache-2.0
"""Time a training's step and its start, side by side with another checkout.

    python benchmarks/training_speed.py --peer OTHER_CHECKOUT/.venv/bin/python [--rounds 5]

Both run ``longtail train`` with the quick start's model, one after the other, with few and with
many iterations: the slope is the CPU time of a step, the rest that of the start, the last
checkpoint and the evaluation of 8 images. Pairs of runs follow each other at once, so that a busy
machine slows both; the median over the rounds is reported, and the smallest and largest ratio.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from common import save_result

from longtail.config import get_config_file

CONFIG = "quickstart/deeplabv3plus_lite0_rr.yaml"
GENERATED = [
    *("--num-train", "40", "--num-val", "8", "--size", "160", "--workers", "1"),
    *("--region-imbalance", "10"),
]
KEYS = [
    *("MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "TEST.EXPECTED_RESULTS", "[]"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "4"),
]


def cpu_seconds(python: str, iterations: int, folder: Path) -> float:
    """CPU time of a training, in the program and what it starts."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [python, "-m", "longtail", "train", "--config-file", get_config_file(CONFIG), *KEYS]
    command += ["SOLVER.MAX_ITER", str(iterations), "OUTPUT_DIR", str(output)]
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(folder / "datasets"),
        "OMP_NUM_THREADS": "1",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = folder / "log.txt"
    with open(log, "wb") as file:
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, cwd=folder)
    if done.returncode:
        raise SystemExit(f"error: {python} -m longtail train has failed: see {log}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Alternate, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="Python of the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, nargs=2, default=[5, 45], metavar="N")
    parser.add_argument("--output", type=Path, default=Path("output/training_speed"))
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "datasets" / "synthetic").is_dir():
        generate = ["generate", "--output", str(folder / "datasets" / "synthetic"), *GENERATED]
        subprocess.run([sys.executable, "-m", "longtail", *generate], check=True)
    few, many = options.iterations
    steps, starts = [], []
    for number in range(options.rounds):
        pythons = [sys.executable, os.path.abspath(options.peer)]
        # Neither is always the first.
        order = pythons if number % 2 else pythons[::-1]
        short = {python: cpu_seconds(python, few, folder) for python in order}
        long = {python: cpu_seconds(python, many, folder) for python in order}
        step = [(long[p] - short[p]) / (many - few) for p in pythons]
        start = [short[p] - few * s for p, s in zip(pythons, step, strict=True)]
        steps.append(step)
        starts.append(start)
        print(
            f"round {number + 1}: step {step[0]:.4f} s, peer {step[1]:.4f} s; "
            f"start {start[0]:.2f} s, peer {start[1]:.2f} s",
            flush=True,
        )
    ratios = [own / peer for own, peer in steps]
    extra = [own - peer for own, peer in starts]
    figures = {
        "rounds": options.rounds,
        "step, CPU seconds": statistics.median(own for own, _ in steps),
        "step against the peer": statistics.median(ratios),
        "smallest and largest ratio": [min(ratios), max(ratios)],
        "start, CPU seconds": statistics.median(own for own, _ in starts),
        "start beyond the peer, CPU seconds": statistics.median(extra),
        "smallest and largest difference": [min(extra), max(extra)],
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    if not options.no_save:
        save_result("training_speed", figures)


if __name__ == "__main__":
    main()
