"""Trainings that a benchmark starts: one process each, never repeated once they are finished."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from common import ROOT

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
    _claim(run.folder, command)
    report = run.folder / run.result
    if not report.is_file():
        script = [sys.executable, str(ROOT / "train_net.py"), "--resume"]
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(datasets),
            "OMP_NUM_THREADS": str(threads),
        }
        console = run.folder / "console.txt"
        print(f"{run.name}: started, log in {console}", flush=True)
        with open(console, "w") as log:
            options = [*command, "OUTPUT_DIR", str(run.folder)]
            code = subprocess.run(
                [*script, *options], env=environment, stdout=log, stderr=log, cwd=ROOT
            ).returncode
        if code:
            raise SystemExit(f"error: {run.name} failed: see {console}")
    return json.loads(report.read_text())


def _claim(folder: Path, command: list[str]) -> None:
    """Note what is run in a folder; what was run there before must be the same."""
    note = folder / "command.yaml"
    if note.is_file():
        earlier = yaml.safe_load(note.read_text())
        if earlier != command:
            raise SystemExit(
                f"error: {folder} holds another run ({' '.join(earlier)}): name another --output, "
                "or remove it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(yaml.safe_dump(command))


def spread(values: list[float]) -> list[float]:
    """Mean and standard deviation (n - 1 in its denominator; NaN for one value)."""
    array = np.array(values, dtype=float)
    return [array.mean(), array.std(ddof=1) if len(array) > 1 else np.nan]


def compare(
    runs: Mapping[str, list[dict[str, float]]], baseline: str
) -> dict[str, dict[str, list[float]]]:
    """Mean and deviation of each method, and its difference to a baseline with standard error.

    Args:
        runs: for each method the figures of its runs, one a seed.
        baseline: the method to compare with.

    Returns:
        ``{figure: {method: [mean, deviation], "method - baseline": [difference, error]}}``.
    """
    summary: dict[str, dict[str, list[float]]] = {}
    for key in runs[baseline][0]:
        values = {m: np.array([run[key] for run in of], dtype=float) for m, of in runs.items()}
        summary[key] = {method: spread(v) for method, v in values.items()}
        for method, v in values.items():
            if method != baseline:
                # Seeds do not pair the runs: other initialisations shift all later random draws.
                both = (v, values[baseline])
                error = np.sqrt(sum(x.var(ddof=1) / len(x) for x in both)) if len(v) > 1 else np.nan
                difference = v.mean() - values[baseline].mean()
                summary[key][f"{method} - {baseline}"] = [difference, error]
    return summary
