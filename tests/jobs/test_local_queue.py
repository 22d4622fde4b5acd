# SPDX-License-Identifier: Apache-2.0
"""The queue of this machine, with a program that stands in for ``longtail train``."""

import os
import re
import signal
import threading
import time

import pytest

from longtail.jobs.board import Board, describe, duration
from longtail.jobs.local_queue import BLOCKED, DONE, FAILED, RUNNING, Task, run_jobs
from longtail.jobs.plan import Row, make_plan
from longtail.jobs.state import Progress, is_done, read_progress
from tests.jobs.small_rows import finish, stand_in, write_configs


@pytest.fixture
def plan(tmp_path):
    configs = write_configs(tmp_path / "configs")
    rows = [Row(configs["second"]), Row(configs["post_hoc"])]
    return make_plan(rows, (0, 1), tmp_path / "out", datasets=lambda seed: f"data{seed}")


@pytest.fixture
def templates(tmp_path, monkeypatch, plan):
    stand_in(monkeypatch, tmp_path / "templates", plan)
    return tmp_path / "templates"


def run(plan, done=(), slots=2):
    return run_jobs(plan.jobs, set(done), Board(), num_gpus=0, slots=slots, threads=1)


def states(tasks):
    return {task.job.name: task.state for task in tasks}


def calls(templates):
    """The folders in the order of their calls."""
    lines = (templates / "calls.txt").read_text().splitlines()
    return [re.search(r"out/(\S+)$", line)[1] for line in lines]


def test_everything_runs_once_and_first_stages_first(plan, templates, capsys):
    for job in plan.jobs:
        weights = job.first and job.first.checkpoint
        text = f"[ -f '{weights}' ] || {{ echo too early; exit 1; }}" if weights else "sleep 0.3"
        (templates / job.name.replace("/", "_") / "script").write_text(f"{text}\n")
    tasks = run(plan, slots=6)
    assert set(states(tasks).values()) == {DONE} and len(tasks) == 6
    order = calls(templates)
    assert sorted(order) == sorted(job.name for job in plan.jobs)
    for seed in (0, 1):
        later = min(order.index(f"{name}/seed{seed}") for name in ("second", "post_hoc"))
        assert order.index(f"first/seed{seed}") < later
    log = (plan.jobs[1].folder / "console.txt").read_text()
    assert log == "threads 1, data data1\n"
    said = capsys.readouterr().out
    assert "second/seed1: done, mIoU 50.0" in said and "6 of 6 done" in said and "\x1b" not in said


def test_what_is_done_is_not_run(plan, templates):
    first, second = plan.jobs[0], next(j for j in plan.jobs if j.name == "second/seed0")
    for job in (first, second):
        finish(job)
    run(plan, done=[first, second])
    assert len(calls(templates)) == 4
    assert not {first.name, second.name} & set(calls(templates))


def test_a_failure_stops_what_starts_from_it_alone(plan, templates, capsys):
    script = templates / "first_seed1" / "script"
    script.write_text("echo first; echo 'error: the disk is gone'; echo bye; exit 1\n")
    tasks = run(plan, slots=1)
    assert states(tasks) == {
        **{"first/seed0": DONE, "second/seed0": DONE, "post_hoc/seed0": DONE},
        **{"first/seed1": FAILED, "second/seed1": BLOCKED, "post_hoc/seed1": BLOCKED},
    }
    said = capsys.readouterr().out
    assert "first/seed1: failed: the disk is gone (log: " in said
    assert "second/seed1: not run: first/seed1" in said
    # The same call again runs what is left, and reads this start's part of the log.
    script.write_text("echo 'error: again'; exit 1\n")
    done = {job for job in plan.jobs if is_done(job)}
    assert len(done) == 3
    (again,) = [task for task in run(plan, done=done) if task.state == FAILED]
    assert again.message == "again"
    script.unlink()
    assert set(states(run(plan, done=done)).values()) == {DONE}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -9 $$", "killed by SIGKILL"),
        ("exit 0", "without an evaluation"),
        ("exit 3", "threads 1"),
    ],
)
def test_other_ends(plan, templates, script, message):
    (templates / "first_seed0" / "script").write_text(f"{script}\n")
    (task,) = [task for task in run(plan) if task.state == FAILED]
    assert task.job is plan.jobs[0] and message in task.message


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_the_processes_as_sigterm(plan, templates, capsys, number, code):
    for name in ("first_seed0", "first_seed1"):
        text = "trap 'echo saved; exit 143' TERM\ntouch ready\nwhile :; do sleep 0.05; done\n"
        text = text.replace("ready", str(templates / f"ready_{name}"))
        (templates / name / "script").write_text(text)

    def interrupt():
        while len(list(templates.glob("ready_*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        run(plan)
    assert ended.value.code == code
    assert signal.Signals(number).name in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    for job in plan.jobs[:2]:
        assert "saved" in (job.folder / "console.txt").read_text()
    assert len(calls(templates)) == 2


def test_progress(plan):
    first, post_hoc = plan.jobs[0], plan.jobs[-1]
    started = time.time() - 100
    assert read_progress(first, started) == Progress(0.0, None, False)
    first.folder.mkdir(parents=True)
    lines = '{"iteration": 1, "eta_seconds": 9}\n{"iteration": 4, "eta_seconds": 60}\n{"itera'
    (first.folder / "metrics.json").write_text(lines)
    found = read_progress(first, started)
    # 5 of 10 iterations; what an earlier start has written says nothing of the time.
    assert found.share == 0.5 and 58 < found.seconds_left <= 60
    assert read_progress(first, time.time() + 1) == Progress(0.5, None, False)
    first.checkpoint.touch()
    assert read_progress(first, started).evaluating
    assert read_progress(post_hoc, started).evaluating


def test_words(plan):
    task = Task(plan.jobs[0], RUNNING, progress=Progress(0.45, 200.0, False))
    assert describe(task) == "training 45 %, 3 min left"
    task.progress = Progress(1.0, None, True)
    assert describe(task) == "evaluating"
    seconds = (40, 89, 600, 5400, 3.5 * 3600, 72 * 3600)
    words = ("40 s", "89 s", "10 min", "1.5 h", "3.5 h", "3.0 days")
    assert tuple(map(duration, seconds)) == words


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_on_a_terminal_lines_are_replaced(plan, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "7")
    stream, tasks = Terminal(), [Task(job) for job in plan.jobs]
    tasks[4].state, tasks[4].progress = RUNNING, Progress(0.5, 30.0, False)
    board = Board(stream)
    board.show(tasks, 2)
    lines = stream.text.split("\n")
    # Three jobs, the one that runs among them, how many more, and the sum.
    assert "training 50 %, 30 s left" in stream.text and "and 3 more" in lines[3]
    assert "0 of 6 done" in lines[4] and len(lines) == 6
    assert all(len(line.replace("\r\x1b[K", "")) < 60 for line in lines)
    stream.text = ""
    board.show(tasks, 2)
    assert stream.text.startswith("\x1b[5A")
    board.finish(tasks)
    assert all(job.name in stream.text for job in plan.jobs)
