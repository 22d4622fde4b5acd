# SPDX-License-Identifier: Apache-2.0
"""Trainings that a benchmark starts: one process each, never repeated once they are finished."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from common import ROOT

from longtail.config import load_config
from longtail.utils.cores import available_cores


@dataclass(frozen=True)
class Run:
    """One training with the evaluation at its end.

    Attributes:
        name: for messages.
        config: the config file.
        folder: OUTPUT_DIR.
        result: the evaluator's report in it.
        options: further keys and values.
    """

    name: str
    config: Path
    folder: Path
    result: str
    options: tuple[str, ...] = ()


def parallel_runs() -> tuple[int, int]:
    """How many trainings at a time, and the threads of each.

    One GPU takes one run at a time; on CPUs a run a core wastes nothing on synchronisation.
    """
    cores = available_cores()
    return (1, cores) if torch.cuda.is_available() else (cores, 1)


def train(run: Run, datasets: Path, threads: int) -> dict:
    """Train and evaluate, unless that is done; an interrupted training continues.

    Args:
        run: what to train.
        datasets: the folder of the data sets.
        threads: of the process.

    Returns:
        The evaluator's report.

    Raises:
        SystemExit: the training failed, or the folder holds one with other options.
    """
    command = ["--config-file", os.path.relpath(run.config, ROOT), *run.options]
    command += ["OUTPUT_DIR", str(run.folder)]
    check_same(run)
    report = run.folder / run.result
    if not report.is_file():
        script = [sys.executable, str(ROOT / "train_net.py"), "--resume"]
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(datasets),
            "OMP_NUM_THREADS": str(threads),
        }
        run.folder.mkdir(parents=True, exist_ok=True)
        console = run.folder / "console.txt"
        print(f"{run.name}: started, log in {console}", flush=True)
        with open(console, "w") as log:
            code = subprocess.run(
                [*script, *command], env=environment, stdout=log, stderr=log, cwd=ROOT
            ).returncode
        if code:
            raise SystemExit(f"error: {run.name} failed: see {console}")
    return json.loads(report.read_text())


def run_all(names: list[str], seeds: list[int], start: Callable[[str, int], dict]) -> dict:
    """The reports of all runs by name, one a seed; several at a time."""
    jobs = [(name, seed) for seed in seeds for name in names]
    with ThreadPoolExecutor(parallel_runs()[0]) as pool:
        reports = list(pool.map(lambda job: start(*job), jobs))
    return {
        name: [r for (other, _), r in zip(jobs, reports, strict=True) if other == name]
        for name in names
    }


def check_same(run: Run) -> None:
    """What was run in the folder before, if anything, must have had the same config."""
    earlier = run.folder / "config.yaml"
    if not earlier.is_file():
        return
    wanted = load_config(str(run.config), [*run.options, "OUTPUT_DIR", str(run.folder)])
    if yaml.safe_load(earlier.read_text()) != yaml.safe_load(wanted.dump()):
        raise SystemExit(
            f"error: {run.folder} holds a run with another config: name another --output, or "
            "remove it"
        )


def spread(values: list[float]) -> list[float]:
    """Mean and standard deviation (n - 1 in its denominator; NaN for one value)."""
    array = np.array(values, dtype=float)
    return [array.mean(), array.std(ddof=1) if len(array) > 1 else np.nan]


def compare(
    runs: Mapping[str, list[dict[str, float]]], baseline: str, paired: Sequence[str] = ()
) -> dict[str, dict[str, list[float]]]:
    """Mean and deviation of each method, and its difference to a baseline with standard error.

    Args:
        runs: for each method the figures of its runs, one a seed.
        baseline: the method to compare with.
        paired: methods whose run of a seed continues the baseline's run of that seed. Seeds do not
            pair others: another initialisation shifts all later random draws.

    Returns:
        ``{figure: {method: [mean, deviation], "method - baseline": [difference, error]}}``; errors
        of single runs are NaN.
    """
    summary: dict[str, dict[str, list[float]]] = {}
    for key in runs[baseline][0]:
        values = {m: np.array([run[key] for run in of], dtype=float) for m, of in runs.items()}
        base = values[baseline]
        summary[key] = {method: spread(v) for method, v in values.items()}
        for method, v in values.items():
            if method == baseline:
                continue
            if len(v) < 2:
                error = np.nan
            elif method in paired:
                error = (v - base).std(ddof=1) / np.sqrt(len(v))
            else:
                error = np.sqrt(v.var(ddof=1) / len(v) + base.var(ddof=1) / len(base))
            summary[key][f"{method} - {baseline}"] = [v.mean() - base.mean(), error]
    return summary


def comparison_rows(summary: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """The rows of a table of what :func:`compare` gave."""
    return [[key, *(f"{m:.2f} ± {d:.2f}" for m, d in of.values())] for key, of in summary.items()]


def sem_seg_figures(report: dict) -> dict[str, float]:
    """The figures of one run, in percent, flat."""
    values = {key: report[key] for key in ("mIoU", "mAcc", "aAcc")}
    values |= {f"mIoU {group}": value["mIoU"] for group, value in report["groups"].items()}
    values |= {f"mAcc {group}": value["mAcc"] for group, value in report["groups"].items()}
    values |= {f"IoU {row['name']}": row["IoU"] for row in report["classes"]}
    return values | {f"Acc {row['name']}": row["Acc"] for row in report["classes"]}
