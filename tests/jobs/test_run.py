# SPDX-License-Identifier: Apache-2.0
"""What a command that runs rows does: options, listings, array jobs, results, exit codes."""

import argparse
import shlex

import pytest

from longtail.jobs.arguments import add_run_arguments, parse_seeds
from longtail.jobs.plan import Row
from longtail.jobs.run import run_rows
from longtail.jobs.state import is_done
from tests.jobs.small_rows import finish, stand_in, write_configs
from tests.messages import raises_naming


@pytest.fixture
def rows(tmp_path):
    configs = write_configs(tmp_path / "configs")
    return [Row(configs["first"]), Row(configs["post_hoc"])]


def parsed(tmp_path, *options):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    standard = ["--output", str(tmp_path / "out"), "--seeds", "2", "--num-gpus", "0"]
    return parser.parse_args([*standard, *options])


def test_seeds():
    assert parse_seeds("3") == (0, 1, 2) and parse_seeds("5,3") == (5, 3)
    assert parse_seeds("4,") == (4,)
    for text in ("0", "", "-1", "a", "3,3", "1,-2", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="seeds"):
            parse_seeds(text)


def test_a_dry_run_prints_what_a_shell_would_run(rows, tmp_path, capsys):
    arguments = parsed(tmp_path, "--dry-run")
    plan, runs = run_rows(rows, arguments, datasets=lambda seed: f"data {seed}")
    finish(plan.jobs[0])
    capsys.readouterr()
    run_rows(rows, arguments, datasets=lambda seed: f"data {seed}")
    lines = capsys.readouterr().out.splitlines()
    assert runs == {} and not (tmp_path / "out" / "post_hoc").exists()
    assert lines[0] == "# Stage 1: 2 jobs, 1 of them done"
    assert lines[3] == "# Stage 2: 2 jobs, 0 of them done"
    assert lines[1].startswith("# done: ") and not lines[2].startswith("#")
    for line, job in zip((lines[2], lines[4]), (plan.jobs[1], plan.jobs[2]), strict=True):
        variable, program, *rest = shlex.split(line)
        assert (variable, program) == (f"DETECTRON2_DATASETS=data {job.seed}", "longtail")
        assert rest == job.arguments(0)


def test_runs_of_every_row_by_seed(rows, tmp_path, monkeypatch):
    plan, _ = run_rows(rows, parsed(tmp_path, "--dry-run"))
    calls = stand_in(monkeypatch, tmp_path / "templates", plan)
    _, runs = run_rows(rows, parsed(tmp_path))
    assert [[run.seed for run in runs[row]] for row in rows] == [[0, 1], [0, 1]]
    assert [run.folder for run in runs[rows[1]]] == [
        job.folder for job in plan.by_row[rows[1]]
    ] or [run.folder.name for run in runs[rows[1]]] == ["seed0", "seed1"]
    assert len(calls.read_text().splitlines()) == 4
    run_rows(rows, parsed(tmp_path))
    assert len(calls.read_text().splitlines()) == 4


def test_a_failure_is_exit_code_1(rows, tmp_path, monkeypatch):
    plan, _ = run_rows(rows, parsed(tmp_path, "--dry-run"))
    stand_in(monkeypatch, tmp_path / "templates", plan)
    (tmp_path / "templates" / "first_seed0" / "script").write_text("echo error: no disk; exit 1\n")
    with pytest.raises(SystemExit) as ended:
        run_rows(rows, parsed(tmp_path))
    first, second = str(ended.value.code).splitlines()
    assert first.startswith("error: 1 of 4 jobs failed, and 1 that start")
    assert second.startswith("  first/seed0: no disk (log: ")


def test_another_run_in_a_folder_stops_before_anything_starts(rows, tmp_path, monkeypatch):
    plan, _ = run_rows(rows, parsed(tmp_path, "--dry-run"))
    calls = stand_in(monkeypatch, tmp_path / "templates", plan)
    finish(plan.jobs[-1])
    with raises_naming(ValueError, plan.jobs[-1].folder.as_posix(), "SOLVER.MAX_ITER"):
        run_rows(rows, parsed(tmp_path), options=("SOLVER.MAX_ITER", "99"))
    assert not calls.exists()


def test_a_run_of_an_older_version_that_lacks_a_key_is_done(rows, tmp_path):
    """What was recorded before a key existed had its default, here as in tables."""
    arguments = parsed(tmp_path, "--dry-run")
    plan, _ = run_rows(rows, arguments)
    for job in plan.jobs:
        del job.settings["SOLVER.NESTEROV"]
        finish(job)
    run_rows(rows, arguments)
    assert all(is_done(job) for job in run_rows(rows, arguments)[0].jobs)


def test_array_jobs_are_written_not_run(rows, tmp_path, monkeypatch, capsys):
    plan, _ = run_rows(rows, parsed(tmp_path, "--dry-run"))
    calls = stand_in(monkeypatch, tmp_path / "templates", plan)
    capsys.readouterr()
    _, runs = run_rows(rows, parsed(tmp_path, "--launcher", "slurm"))
    assert runs == {} and not calls.exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# 0 of 4 jobs are done." and "aftercorr" in lines[2]
    assert (tmp_path / "out" / "slurm" / "stage2.sh").is_file()


def test_bad_numbers_of_gpus(rows, tmp_path):
    with raises_naming(ValueError, "--num-gpus", "-1"):
        run_rows(rows, parsed(tmp_path, "--num-gpus", "-1"))
