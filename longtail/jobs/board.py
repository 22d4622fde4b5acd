# SPDX-License-Identifier: Apache-2.0
"""A line of state for every job: in place on a terminal, otherwise a line for what is new."""

import shutil
import sys
import time
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from longtail.jobs.local_queue import Task

# Seconds after which a line of a file says again how far a job is.
_QUIET = 60.0
# What is shown first where not everything fits.
_ORDER = ("running", "failed", "blocked", "waiting", "done")


class Board:
    """Shows jobs."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        """Take where to write.

        Args:
            stream: by default the standard output.
        """
        self._stream = stream or sys.stdout
        self._in_place = self._stream.isatty()
        self._lines = 0
        # By job: the state that was said last, and when.
        self._said: dict[Task, tuple[str, float]] = {}

    def show(self, tasks: "list[Task]", slots: int) -> None:
        """Show what goes on.

        Args:
            tasks: all jobs.
            slots: jobs at a time, for the time that is left.
        """
        if self._in_place:
            size = shutil.get_terminal_size()
            lines = [*_table(tasks, size.lines - 3), _summary(tasks, slots)]
            self._replace([line[: size.columns - 1] for line in lines])
            return
        for task in tasks:
            self._append(task, tasks, slots)

    def finish(self, tasks: "list[Task]") -> None:
        """Leave the last state of all jobs on a terminal, whole."""
        if self._in_place:
            self._replace(_table(tasks, len(tasks)))
            self._lines = 0

    def _append(self, task: "Task", tasks: "list[Task]", slots: int) -> None:
        kind = f"{task.state} {task.progress.evaluating}"
        said, when = self._said.get(task, ("waiting False", 0.0))
        again = task.state == "running" and time.monotonic() - when >= _QUIET
        if kind == said and not again:
            return
        self._said[task] = (kind, time.monotonic())
        line = f"{task.job.name}: {describe(task)}"
        if again or task.state == "done":
            line += f" [{_summary(tasks, slots)}]"
        print(line, file=self._stream, flush=True)

    def _replace(self, lines: list[str]) -> None:
        up = f"\x1b[{self._lines}A" if self._lines else ""
        # What is left of longer lines, and of more of them, goes.
        self._stream.write(up + "".join(f"\r\x1b[K{line}\n" for line in lines) + "\x1b[J")
        self._stream.flush()
        self._lines = len(lines)


def describe(task: "Task") -> str:
    """The state of a job in a few words.

    Args:
        task: the job.
    """
    if task.state == "running":
        if task.progress.evaluating:
            return "evaluating"
        left = task.progress.seconds_left
        share = f" {100 * task.progress.share:.0f} %" if task.progress.share else ""
        return f"training{share}" + (f", {duration(left)} left" if left is not None else "")
    if task.state == "failed":
        return f"failed: {task.message} (log: {task.log})"
    if task.state == "blocked":
        return f"not run: {task.message}"
    if task.state == "done":
        took = f" ({duration(task.seconds)})" if task.seconds else ""
        return f"done, {task.message}{took}"
    return task.state


def duration(seconds: float) -> str:
    """Write a time with two digits at most, such as ``40 s``, ``12 min``, ``3.5 h``.

    Args:
        seconds: the time.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def seconds_left(tasks: "list[Task]", slots: int) -> float | None:
    """Estimate the time until all jobs have ended; None before anything is known.

    A job that waits is taken to last as long as those of its config, or of its kind, or as all.

    Args:
        tasks: all jobs.
        slots: jobs at a time.
    """
    now = time.time()
    lengths: dict[object, list[float]] = {}
    total = 0.0
    for task in tasks:
        length = task.seconds if task.state == "done" else 0.0
        if task.state == "running" and task.progress.seconds_left is not None:
            length = now - task.started + task.progress.seconds_left
            total += task.progress.seconds_left
        for key in (task.job.config, task.job.eval_only, None) if length else ():
            lengths.setdefault(key, []).append(length)
    if not lengths:
        return None
    for task in tasks:
        if task.state == "waiting":
            keys = (task.job.config, task.job.eval_only, None)
            known = next(lengths[key] for key in keys if key in lengths)
            total += sum(known) / len(known)
    return total / slots


def _summary(tasks: "list[Task]", slots: int) -> str:
    counts = {state: sum(task.state == state for task in tasks) for state in _ORDER}
    parts = [f"{counts['done']} of {len(tasks)} done"]
    if wrong := counts["failed"] + counts["blocked"]:
        parts.append(f"{wrong} failed")
    left = seconds_left(tasks, slots)
    if left is not None and counts["running"] + counts["waiting"]:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def _table(tasks: "list[Task]", most: int) -> list[str]:
    shown = tasks
    if len(tasks) > most:
        # As many as fit, in their own order.
        wanted = sorted(tasks, key=lambda task: _ORDER.index(task.state))[: max(most - 1, 1)]
        shown = [task for task in tasks if task in wanted]
    width = max((len(task.job.name) for task in shown), default=0)
    lines = [f"{task.job.name:<{width}}  {describe(task)}" for task in shown]
    rest = len(tasks) - len(shown)
    return [*lines, f"... and {rest} more"] if rest else lines
