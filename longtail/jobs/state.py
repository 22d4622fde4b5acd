# SPDX-License-Identifier: Apache-2.0
"""What there is of a job on the disk: finished, begun, of another config, how far."""

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longtail.analysis.evaluations import Evaluation
from longtail.analysis.recipes import IGNORED, WEIGHTS, unequal_keys
from longtail.analysis.runs import Run, read_run
from longtail.config.loading import flat_config
from longtail.jobs.plan import Job

# What may differ between two runs of the same recipe and seed. That all test sets and scales are
# evaluated is looked at apart.
_FREE = IGNORED.keys() - {"SEED"}
# Differences that a message names, and bytes at the end of a log that are looked at.
_SHOWN, _TAIL = 3, 65536


@dataclass(frozen=True)
class Progress:
    """How far a job is that runs.

    Attributes:
        share: of the iterations, 0 to 1.
        seconds_left: until the end of the training; None if it is not known yet.
        evaluating: whether the training is over.
    """

    share: float
    seconds_left: float | None
    evaluating: bool


def is_done(job: Job) -> bool:
    """Tell whether a job is finished: trained to the end, and evaluated on all its test sets.

    Raises:
        ValueError: its folder holds a run with another config.
    """
    run = finished_run(job)
    evaluations = run.evaluations if run else ()
    if evaluations:
        for evaluation in evaluations:
            _check_same(job, evaluation.config)
    else:
        _check_same(job, _earlier_config(job.folder))
    return run is not None and _has_all(job, run)


def finished_run(job: Job) -> Run | None:
    """The run of a job, None if there is no evaluation that can be read.

    One that was damaged, or is of an older version, is made again.
    """
    try:
        return read_run(job.folder)
    except (ValueError, OSError):
        return None


def check_startable(jobs: tuple[Job, ...], done: set[Job]) -> None:
    """Check that later stages find what they start from.

    Raises:
        ValueError: a first stage is finished, but its weights are gone.
    """
    for job in jobs:
        first = job.first
        if job not in done and first in done and not first.checkpoint.is_file():
            raise ValueError(
                f"{first.folder} is finished, but {first.checkpoint.name}, which {job.name} "
                "starts from, is gone: bring it back, or remove the folder to train it again"
            )


def main_metric(job: Job) -> str:
    """The first metric of a finished job, such as ``mIoU 52.1``."""
    run = finished_run(job)
    name, value = next(iter(run.metrics().items())) if run else ("", 0.0)
    return f"{name} {value:.1f}" if run else ""


def read_progress(job: Job, since: float) -> Progress:
    """Look how far a job is that runs.

    Args:
        job: the job.
        since: when it was started, as :func:`time.time` has it.
    """
    weights = job.checkpoint
    if job.eval_only or (weights.is_file() and weights.stat().st_mtime >= since):
        return Progress(1.0, None, True)
    path = job.folder / "metrics.json"
    line = _last_line(path)
    if line is None:
        return Progress(0.0, None, False)
    share = min((line["iteration"] + 1) / max(job.settings["SOLVER.MAX_ITER"], 1), 1.0)
    written = path.stat().st_mtime
    left = line.get("eta_seconds")
    # What an earlier start has left says nothing of this one's speed.
    if left is None or written < since:
        return Progress(share, None, False)
    return Progress(share, max(left - (time.time() - written), 0.0), False)


def last_error(log: Path, start: int) -> str:
    """The line of a log that says what went wrong.

    Args:
        log: of a job that failed.
        start: where in the file this start of it begins.
    """
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _TAIL))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    # After a signal that somebody else sent, the log goes on behind what the training says of it.
    errors = [line for line in lines if re.match(r"error: |SIG[A-Z0-9]+: ", line)]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ").strip()


def _has_all(job: Job, run: Run) -> bool:
    scales = [False, True] if job.settings["TEST.AUG.ENABLED"] else [False]
    wanted = [(name, scale) for name in job.settings["DATASETS.TEST"] for scale in scales]
    found = [run.evaluation(name, multi_scale=scale) for name, scale in wanted]
    return bool(found) and all(_is_final(job, evaluation) for evaluation in found)


def _is_final(job: Job, evaluation: Evaluation | None) -> bool:
    return evaluation is not None and (job.eval_only or evaluation.is_final)


def _check_same(job: Job, earlier: dict[str, Any] | None) -> None:
    if earlier is None:
        return
    # Which run it starts from is in the plan, wherever that lies. One that was evaluated once more
    # in its own folder starts from its own weights.
    again = os.path.abspath(earlier.get(WEIGHTS) or "") == os.path.abspath(job.checkpoint)
    free = _FREE | ({WEIGHTS} if job.first or again else set())
    different = unequal_keys(earlier, job.settings, free)
    if different:
        shown = ", ".join(
            f"{key} {there!r} instead of {wanted!r}"
            for key, (there, wanted) in list(different.items())[:_SHOWN]
        )
        more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise ValueError(
            f"{job.folder} holds a run with another config ({shown}{more}): name another --output, "
            "or remove it"
        )


def _earlier_config(folder: Path) -> dict[str, Any] | None:
    """What was begun in a folder; None if nothing was, or nobody can tell what."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return flat_config(config) if isinstance(config, dict) else None


def _last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of metrics.json."""
    try:
        with open(path, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for text in reversed(lines):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("iteration"), int):
            return line
    return None
