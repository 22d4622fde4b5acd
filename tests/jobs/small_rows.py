# SPDX-License-Identifier: Apache-2.0
"""Small configs with a first stage, and a program that stands in for ``longtail train``."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from longtail.jobs.plan import Job, Plan
from tests.finished_runs import write_run

FIRST = """\
VERSION: 2
DATASETS: {TRAIN: ["toy_train"], TEST: ["toy_val"]}
SOLVER: {MAX_ITER: 10}
TEST: {EXPECTED_RESULTS: [[sem_seg, mIoU, 50.0, 1.0]]}
OUTPUT_DIR: output/toy/first
"""
SECOND = """\
_BASE_: first.yaml
MODEL: {WEIGHTS: output/toy/first/model_final.pth}
OUTPUT_DIR: output/toy/second
"""
POST_HOC = """\
_BASE_: first.yaml
MODEL: {WEIGHTS: output/toy/first/model_final.pth, POST_HOC: {METHOD: tau_norm}}
OUTPUT_DIR: output/toy/post_hoc
"""


def write_configs(folder: Path) -> dict[str, str]:
    """Write the three configs; returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"first": FIRST, "second": SECOND, "post_hoc": POST_HOC}
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return {name: str(folder / f"{name}.yaml") for name in texts}


def finish(job: Job, folder: Path | None = None, *, miou: float = 50.0, **options: Any) -> None:
    """Write what a finished job leaves.

    Args:
        job: whose config is written.
        folder: instead of the job's.
        miou: its metric.
        options: of :func:`tests.finished_runs.write_run`.
    """
    folder = folder or job.folder
    config = nested(job.settings | {"OUTPUT_DIR": str(job.folder)})
    write_run(folder, {"mIoU": miou}, seed=job.seed, config=config, **options)
    if not job.eval_only:
        (folder / "model_final.pth").touch()


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Values by full key as nested dicts."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, name = key.split(".")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return found


# Its last argument is OUTPUT_DIR. What it does there is in the templates' folder.
PROGRAM = """\
#!/bin/sh
for output; do :; done
template="{templates}/$(basename "$(dirname "$output")")_$(basename "$output")"
echo "$*" >> "{templates}/calls.txt"
echo "threads $OMP_NUM_THREADS, data $DETECTRON2_DATASETS"
if [ -f "$template/script" ]; then . "$template/script"; fi
cp -r "$template/." "$output"
"""


def stand_in(monkeypatch: pytest.MonkeyPatch, templates: Path, plan: Plan) -> Path:
    """Let jobs be done by a program that copies what they leave.

    Args:
        monkeypatch: pytest's.
        templates: an empty folder; ``<config>_seed<N>/script`` there is run before the copy.
        plan: the jobs that there may be.

    Returns:
        The file that lists the calls.
    """
    templates.mkdir()
    for job in plan.jobs:
        finish(job, templates / f"{job.folder.parent.name}_{job.folder.name}")
    program = templates / "python"
    program.write_text(PROGRAM.format(templates=templates))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(program))
    return templates / "calls.txt"
