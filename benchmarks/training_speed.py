# SPDX-License-Identifier: Apache-2.0
"""Time a training's step and its start, side by side with another checkout.

    python benchmarks/training_speed.py --peer OTHER_CHECKOUT/.venv/bin/python [--rounds 5]

Both train the quick start's model, one after the other, each in a process of its own. Reported are
CPU times: of a step the fastest tenth of the iterations, as other work on the machine only adds to
them, and of the start all until the first iteration begins. Pairs of runs follow each other at
once; the median over the rounds is reported, and the smallest and largest value.
"""

import argparse
import os
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


# Prints the CPU seconds before the first iteration, and of each iteration.
PROGRAM = """
import sys, time
from detectron2.engine.train_loop import HookBase
from longtail.config import load_config
from longtail.engine import Trainer

class Clock(HookBase):
    def before_step(self):
        times.append(time.process_time())

times = []
trainer = Trainer(load_config(sys.argv[1], sys.argv[2:]))
trainer.resume_or_load(resume=False)
trainer.register_hooks([Clock()])
trainer.train()
print(times[0], *(b - a for a, b in zip(times, times[1:])))
"""


def cpu_seconds(python: str, iterations: int, folder: Path) -> tuple[float, float]:
    """CPU time of a step and of the start."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [python, "-c", PROGRAM, get_config_file(CONFIG), *KEYS]
    command += ["SOLVER.MAX_ITER", str(iterations), "OUTPUT_DIR", str(output)]
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(folder / "datasets"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {python} has failed:\n{done.stderr[-2000:]}")
    start, *steps = map(float, done.stdout.splitlines()[-1].split())
    return sorted(steps)[len(steps) // 10], start


def main() -> None:
    """Alternate, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="Python of the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("output/training_speed"))
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "datasets" / "synthetic").is_dir():
        generate = ["generate", "--output", str(folder / "datasets" / "synthetic"), *GENERATED]
        subprocess.run([sys.executable, "-m", "longtail", *generate], check=True)
    steps, starts = [], []
    for number in range(options.rounds):
        pythons = [sys.executable, os.path.abspath(options.peer)]
        # Neither is always the first.
        order = pythons if number % 2 else pythons[::-1]
        times = {python: cpu_seconds(python, options.iterations, folder) for python in order}
        step, start = ([times[python][part] for python in pythons] for part in (0, 1))
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
