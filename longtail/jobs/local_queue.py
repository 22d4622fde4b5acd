# SPDX-License-Identifier: Apache-2.0
"""Running jobs as processes of this machine, each as soon as what it starts from is there."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from longtail.jobs.board import Board
from longtail.jobs.plan import Job
from longtail.jobs.state import Progress, is_done, last_error, main_metric, read_progress
from longtail.utils.errors import INTERRUPTED, RESUMABLE

LOG = "console.txt"
WAITING = "waiting"
RUNNING = "running"
DONE = "done"
STOPPED = "stopped"
FAILED = "failed"
BLOCKED = "blocked"
# Exit codes of a process that does what it is told: with a checkpoint, or before there was one.
_AFTER_SIGNALS = (RESUMABLE, -signal.SIGTERM, -signal.SIGKILL)
# Seconds between two looks at the processes, and at how far they are.
_POLL, _LOOK = 0.1, 1.0


@dataclass(eq=False)
class Task:
    """A job in the queue.

    Attributes:
        job: what is run.
        state: one of those above.
        message: of a state that has one: a metric, an error.
        progress: while it runs.
        started: as :func:`time.time` has it; 0 before.
        seconds: that it took.
    """

    job: Job
    state: str = WAITING
    message: str = ""
    progress: Progress = field(default_factory=lambda: Progress(0.0, None, False))
    started: float = 0.0
    seconds: float = 0.0
    _process: subprocess.Popen | None = None
    _log_start: int = 0
    _told_to_stop: bool = False

    @property
    def log(self) -> Path:
        """What the process says."""
        return self.job.folder / LOG

    def start(self, num_gpus: int, threads: int | None) -> None:
        """Start the process, in a session of its own: it gets the signals that it is sent.

        Args:
            num_gpus: GPUs of the job.
            threads: of the process; None leaves that to it.
        """
        environment = {**os.environ, **self.job.environment, "OMP_WAIT_POLICY": "passive"}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.state, self.started = RUNNING, time.time()
        with open(self.log, "ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "longtail", *self.job.arguments(num_gpus)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def look(self) -> None:
        """See how far it is."""
        if self.state == RUNNING:
            self.progress = read_progress(self.job, self.started)

    def has_ended(self) -> bool:
        """Tell whether the process has ended, and take what it has left."""
        if self.state != RUNNING or self._process.poll() is None:
            return False
        self.seconds = time.time() - self.started
        if self._process.returncode == 0 and is_done(self.job):
            self.state, self.message = DONE, main_metric(self.job)
        elif self._told_to_stop and self._process.returncode in _AFTER_SIGNALS:
            self.state = STOPPED
        else:
            self.state, self.message = FAILED, self._reason()
        return True

    def send(self, number: int) -> None:
        """Send a signal to the process, or if it is to be killed, to those that it started, too."""
        self._told_to_stop = True
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def _reason(self) -> str:
        code = self._process.returncode
        if code == 0:
            return "it has ended without an evaluation on every test set"
        if code < 0:
            memory = ", often for lack of memory" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{memory}"
        return last_error(self.log, self._log_start)


def run_jobs(
    jobs: Sequence[Job],
    done: set[Job],
    board: Board,
    *,
    num_gpus: int,
    slots: int,
    threads: int | None,
) -> list[Task]:
    """Run the jobs that are not done; one that fails stops those alone that start from it.

    Ctrl-C and SIGTERM end the processes as SIGTERM does: they write a checkpoint.

    Args:
        jobs: in the order in which they are started.
        done: those that are finished.
        board: shows what goes on.
        num_gpus: of each job.
        slots: jobs at a time.
        threads: of each, None for as many as they want.

    Returns:
        The jobs with what became of them.

    Raises:
        SystemExit: after a signal, once the processes have ended: 130 or 143.
    """
    tasks = {job: Task(job) for job in jobs}
    for job in done:
        tasks[job].state, tasks[job].message = DONE, main_metric(job)
    everything = list(tasks.values())
    looked, told = 0.0, False
    with _listening(everything) as received:
        while any(task.state in (WAITING, RUNNING) for task in everything):
            changed = [task for task in everything if task.has_ended()]
            if not received:
                changed += _start(tasks, num_gpus, slots, threads)
            elif not told:
                told = True
                board.say(
                    f"{signal.Signals(received[0]).name}: waiting for checkpoints; a second one "
                    "ends the runs at once"
                )
            if changed or time.time() - looked >= _LOOK:
                for task in everything:
                    task.look()
                board.show(everything, slots)
                looked = time.time()
            if received and not any(task.state == RUNNING for task in everything):
                break
            time.sleep(_POLL)
        board.finish(everything)
    if received:
        number = received[0]
        print(
            f"{signal.Signals(number).name}: stopped; the same command continues", file=sys.stderr
        )
        raise SystemExit(INTERRUPTED if number == signal.SIGINT else RESUMABLE)
    return everything


def _start(tasks: dict[Job, Task], num_gpus: int, slots: int, threads: int | None) -> list[Task]:
    """Start what can be started, and give up what cannot."""
    changed = []
    for task in tasks.values():
        if task.state != WAITING:
            continue
        first = tasks.get(task.job.first)
        if first is not None and first.state in (FAILED, BLOCKED):
            task.state, task.message = BLOCKED, f"{first.job.name}, which it starts from, failed"
            changed.append(task)
            continue
        running = sum(other.state == RUNNING for other in tasks.values())
        if running < slots and (first is None or first.state == DONE):
            task.start(num_gpus, threads)
            changed.append(task)
    return changed


@contextlib.contextmanager
def _listening(tasks: list[Task]) -> Iterator[list[int]]:
    """Pass signals on to what runs; yields a list with those that have come.

    The second Ctrl-C kills what has not ended yet.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for task in tasks:
            if task.state == RUNNING:
                task.send(signal.SIGTERM if len(received) == 1 else signal.SIGKILL)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for task in tasks:
            if task.state == RUNNING:
                task.send(signal.SIGKILL)
        for number, handler in before.items():
            signal.signal(number, handler)
