# SPDX-License-Identifier: Apache-2.0
"""Array jobs: their scripts are run by bash, with programs that stand in for SLURM's."""

import os
import subprocess
from pathlib import Path

import pytest

from longtail.jobs.plan import Row, make_plan
from longtail.jobs.slurm import write_arrays
from longtail.jobs.state import is_done
from tests.jobs.small_rows import finish, stand_in, write_configs
from tests.messages import raises_naming


@pytest.fixture
def configs(tmp_path):
    return write_configs(tmp_path / "configs with spaces")


def settings_of(script):
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    return dict(line.removeprefix("#SBATCH --").split("=", 1) for line in lines if "=" in line)


def test_later_stages_wait_task_by_task_where_they_correspond(configs, tmp_path):
    plan = make_plan([Row(configs["second"])], (0, 1, 2), tmp_path / "out")
    first, second = write_arrays(plan.jobs, set(), tmp_path / "slurm", 4)
    assert first == f"stage1=$(sbatch --parsable {tmp_path}/slurm/stage1.sh)"
    assert "--dependency=aftercorr:$stage1 " in second and second.startswith("stage2=")
    found = settings_of(tmp_path / "slurm" / "stage2.sh")
    assert found["array"] == "0-2" and found["gpus-per-node"] == "4"
    assert found["cpus-per-task"] == "32" and found["signal"].startswith("TERM@")
    assert "--num-gpus 4" in (tmp_path / "slurm" / "stage2.sh").read_text()


def test_otherwise_they_wait_for_all(configs, tmp_path):
    plan = make_plan([Row(configs["second"]), Row(configs["post_hoc"])], (0, 1), tmp_path / "out")
    _, second = write_arrays(plan.jobs, set(), tmp_path / "slurm", 1)
    assert "--dependency=afterok:$stage1 " in second
    # Where the first stages are done there is nothing to wait for.
    (line,) = write_arrays(plan.jobs, set(plan.jobs[:2]), tmp_path / "slurm", 1)
    assert line.startswith("stage2=") and "dependency" not in line
    assert settings_of(tmp_path / "slurm" / "stage2.sh")["array"] == "0-3"
    assert write_arrays(plan.jobs, set(plan.jobs), tmp_path / "slurm", 1) == []


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Run a task of a script; gives the exit code, and what was said to scontrol."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "srun": 'echo "srun $1"; shift; exec "$@"',
        "scontrol": f'echo "$*" >> "{tmp_path}/scontrol.txt"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def run_task(script: Path, index: int) -> tuple[int, str]:
        variables = {"SLURM_ARRAY_TASK_ID": f"{index}", "SLURM_ARRAY_JOB_ID": "77"}
        done = subprocess.run(
            ["bash", script], env=os.environ | variables, capture_output=True, text=True
        )
        requeued = tmp_path / "scontrol.txt"
        return done.returncode, requeued.read_text() if requeued.exists() else done.stdout

    return run_task


def test_tasks(configs, tmp_path, monkeypatch, cluster):
    rows, folder = [Row(configs["second"])], tmp_path / "slurm"
    plan = make_plan(rows, (0, 1), tmp_path / "out", datasets=lambda seed: tmp_path / f"d {seed}")
    stand_in(monkeypatch, tmp_path / "templates", plan)
    for job in plan.jobs:
        job.folder.mkdir(parents=True)
    write_arrays(plan.jobs, set(), folder, 0)
    code, said = cluster(folder / "stage1.sh", 1)
    assert code == 0 and is_done(plan.jobs[1]) and not is_done(plan.jobs[0])
    assert f"data {tmp_path}/d 1" in said and "threads 1" in said and "srun --cpus" in said
    (tmp_path / "templates" / "first_seed0" / "script").write_text("exit 143\n")
    assert cluster(folder / "stage1.sh", 0) == (143, "requeue 77_0\n")
    (tmp_path / "scontrol.txt").unlink()
    (tmp_path / "templates" / "first_seed0" / "script").write_text("exit 1\n")
    code, said = cluster(folder / "stage1.sh", 0)
    assert code == 1 and "requeue" not in said
    assert cluster(folder / "stage2.sh", 1)[0] == 0 and is_done(plan.jobs[3])


def test_a_folder_that_cannot_be_written(configs, tmp_path):
    plan = make_plan([Row(configs["first"])], (0,), tmp_path / "out")
    finish(plan.jobs[0])
    (tmp_path / "file").touch()
    with raises_naming(OSError, "file"):
        write_arrays(plan.jobs, set(), tmp_path / "file", 1)
