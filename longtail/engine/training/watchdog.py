# SPDX-License-Identifier: Apache-2.0
"""Ending a run whose processes wait for one that hangs, and naming it."""

import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch.distributed as dist
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

# How often a process looks, as a part of the time that it grants.
LOOKS = 50


class Report(NamedTuple):
    """What a process tells the others when its time is over."""

    host: str
    iteration: int
    place: str
    """Function, file and line in which its main thread is."""


class Watchdog(HookBase):
    """With several processes, end this one if an iteration takes too long.

    Whoever waits for another process cannot say for which: all tell each other where they are.
    Evaluations and checkpoints, in which some wait for others for long, are not timed.
    """

    def __init__(self, minutes: float) -> None:
        """Set the time that an iteration may take.

        Args:
            minutes: from the beginning of an iteration to its end, > 0.
        """
        self._seconds = 60 * minutes
        self._stop = threading.Event()
        self._since: float | None = None

    def before_train(self) -> None:
        """Start to look."""
        if comm.get_world_size() > 1:
            # One of its own: the main thread may be waiting in the group's.
            self._store = dist.distributed_c10d._get_default_store().clone()
            threading.Thread(target=self._look, daemon=True).start()

    def before_step(self) -> None:
        """Start the clock of an iteration."""
        self._since = time.monotonic()

    def after_step(self) -> None:
        """Stop it; this is the first hook, so that the others take the time they need."""
        self._since = None

    def after_train(self) -> None:
        """Stop looking."""
        self._stop.set()

    def _look(self) -> None:
        while not self._stop.wait(self._seconds / LOOKS):
            since = self._since
            if since is not None and time.monotonic() - since > self._seconds:
                try:
                    self._end()
                finally:
                    # The main thread waits in a call that nothing interrupts.
                    os._exit(1)

    def _end(self) -> None:
        rank = comm.get_rank()
        own = Report(socket.gethostname(), self.trainer.iter, _place())
        self._store.set(_key(rank), json.dumps(own))
        # Until the others have looked, too.
        time.sleep(3 * self._seconds / LOOKS)
        reports = {
            other: Report(*json.loads(self._store.get(_key(other))))
            for other in range(comm.get_world_size())
            if self._store.check([_key(other)])
        }
        if rank == min(reports):
            message = hang_message(reports, comm.get_world_size(), self._seconds)
            print(f"error: {message}", file=sys.stderr, flush=True)


def hang_message(reports: Mapping[int, Report], world_size: int, seconds: float) -> str:
    """Say which processes hang: they do not answer, are behind, or are where the fewest are.

    Args:
        reports: of the processes that answer, at least one, by rank.
        world_size: number of processes.
        seconds: that an iteration may take.
    """
    iteration = min(report.iteration for report in reports.values())
    silent = [rank for rank in range(world_size) if rank not in reports]
    behind = {rank: r for rank, r in reports.items() if r.iteration == iteration}
    places = Counter(report.place for report in behind.values())
    rarest = min(places.values())
    if silent:
        hanging = ", ".join(f"process {rank} does not answer" for rank in silent)
    else:
        hanging = ", ".join(
            f"process {rank} on {report.host} is in {report.place}"
            for rank, report in behind.items()
            if places[report.place] == rarest
        )
    return (
        f"iteration {iteration} has not ended after {seconds:.0f} s (SOLVER.HANG_MINUTES): "
        f"{hanging}; --resume continues from the last checkpoint"
    )


def _place() -> str:
    """Where the main thread is: the innermost function that is not Python's or torch's."""
    frame = sys._current_frames()[threading.main_thread().ident]
    innermost = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if "site-packages" not in file and not file.startswith((sys.base_prefix, "<")):
            break
        frame = frame.f_back
    code = (frame or innermost).f_code
    return f"{code.co_name} ({os.path.basename(code.co_filename)}:{(frame or innermost).f_lineno})"


def _key(rank: int) -> str:
    return f"longtail/hanging/{rank}"
