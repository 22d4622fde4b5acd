# SPDX-License-Identifier: Apache-2.0
"""Training steps beside other work on the same cores, with and without OMP_WAIT_POLICY=passive.

    python benchmarks/busy_machine.py [--busy 2] [--rounds 3] [--steps 10]

The commands set the policy before torch is imported: threads that wait for each other then sleep,
where by default they spin for a while, in the time of the very threads that they wait for. Each
line is a fresh process that trains the quick start's model on random images, with one thread for
each core; first nothing else is started, then so many processes that only count. Reported are
medians of time passed and of CPU time.

It needs two cores that nothing else uses: with more threads than cores OpenMP hardly spins by
itself, and beside other work "undisturbed" says nothing; the load average at the start is recorded.

With c threads on c cores and b busy processes the fair share of the cores alone makes a step
(c + b) / c times as long. What is "beyond the fair share" is the time that passes beside the busy
processes, against the same policy undisturbed, divided by that.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from common import in_child, save_result

from longtail.utils.cores import available_cores

CONFIG = "quickstart/deeplabv3plus_lite0.yaml"
POLICIES = {"passive": "passive", "torch's own": None}
COUNT = "while True: pass"


def step_seconds(steps: int, images: int) -> tuple[float, float]:
    """Median time passed and CPU time of a step, forward and backward, in this process."""
    import torch

    from longtail.config import load_config
    from longtail.engine import Trainer

    keys = ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "MODEL.DEVICE", "cpu"]
    cfg = load_config(CONFIG, keys)
    model = Trainer.build_model(cfg).train()
    generator = torch.Generator().manual_seed(0)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    batch = [
        {
            "image": torch.randint(0, 256, (3, 160, 160), generator=generator, dtype=torch.uint8),
            "sem_seg": torch.randint(0, classes, (160, 160), generator=generator),
        }
        for _ in range(images)
    ]
    passed, used = [], []
    for _ in range(steps + 1):
        start, cpu = time.perf_counter(), time.process_time()
        sum(model(batch).values()).backward()
        passed.append(time.perf_counter() - start)
        used.append(time.process_time() - cpu)
    return statistics.median(passed[1:]), statistics.median(used[1:])


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """Let so many processes count meanwhile, on the cores of this one."""
    processes = [subprocess.Popen([sys.executable, "-c", COUNT]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(policy: str | None, threads: int, steps: int, images: int) -> tuple[float, float]:
    """:func:`step_seconds` in a fresh process with this policy."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.pop("OMP_WAIT_POLICY", None)
    if policy:
        os.environ["OMP_WAIT_POLICY"] = policy
    return in_child(step_seconds, steps, images)


def main() -> None:
    """Alternate, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, default=2, help="processes that only count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=4, help="of a batch, 160 x 160")
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    cores = available_cores()
    if cores < 2:
        raise SystemExit("error: this process has one core, where no thread waits: give it two")
    load = os.getloadavg()[0]
    states = {"undisturbed": 0, f"beside {options.busy} busy processes": options.busy}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for state, number in states.items():
            for name, policy in POLICIES.items():
                with busy(number):
                    seconds = measure(policy, cores, options.steps, options.images)
                found.setdefault((name, state), []).append(seconds)
                print(f"{name}, {state}: {seconds[0]:.3f} s, CPU {seconds[1]:.3f} s", flush=True)
    fair = (cores + options.busy) / cores
    rows: dict[str, dict[str, float]] = {}
    for (name, state), pairs in found.items():
        row = rows.setdefault(name, {})
        row[f"{state}, s"] = statistics.median(passed for passed, _ in pairs)
        row[f"{state}, CPU s"] = statistics.median(used for _, used in pairs)
    alone, beside = (f"{state}, s" for state in states)
    for row in rows.values():
        row["beyond the fair share"] = row[beside] / row[alone] / fair
    passive, own = rows.values()
    figures = {
        "threads": cores,
        "busy processes": options.busy,
        "load average at the start": load,
        "fair share": fair,
        "rows": rows,
        "passive / torch's own, undisturbed": passive[alone] / own[alone],
        "passive / torch's own, busy": passive[beside] / own[beside],
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    if not options.no_save:
        save_result("busy_machine", figures)


if __name__ == "__main__":
    main()
