# SPDX-License-Identifier: Apache-2.0
"""Ending a run whose processes wait for one that hangs, and naming it."""

import os
import socket
import sys
import threading
import time

import torch.distributed as dist
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

# How often a process looks, as a part of the time that it grants.
LOOKS = 10


class Watchdog(HookBase):
    """With several processes, end this one if no iteration ends for so long.

    The processes tell each other how far they are, so that the message names who is
    behind.
    Evaluations and checkpoints, in which some wait for others for long, are not timed.
    """

    def __init__(self, minutes: float) -> None:
        """Set the time that an iteration may take.

        Args:
        minutes: from one iteration to the next, > 0.
        """
        self._seconds = 60 * minutes
        self._stop = threading.Event()
        self._since: float | None = None

    def before_train(self) -> None:
        """Start to look."""
        if comm.get_world_size() > 1:
            self._store = dist.distributed_c10d._get_default_store()
            self._tell(self.trainer.start_iter)
            threading.Thread(target=self._look, daemon=True).start()

    def before_step(self) -> None:
        """Start the clock of an iteration."""
        self._tell(self.trainer.iter)
        self._since = time.monotonic()

    def after_step(self) -> None:
        """Stop it; this is the first hook, so that the others take the time they need."""
        self._since = None

    def after_train(self) -> None:
        """Stop looking."""
        self._stop.set()

    def _tell(self, iteration: int) -> None:
        if comm.get_world_size() > 1:
            self._store.set(_key(comm.get_rank()), f"{iteration} {socket.gethostname()}")

    def _look(self) -> None:
        while not self._stop.wait(self._seconds / LOOKS):
            since = self._since
            if since is not None and time.monotonic() - since > self._seconds:
                print(f"error: {self._behind()}", file=sys.stderr, flush=True)
                # The main thread waits in a call that nothing interrupts.
                os._exit(1)

    def _behind(self) -> str:
        told = [
            self._store.get(_key(rank)).decode().split() for rank in range(comm.get_world_size())
        ]
        iterations = [int(iteration) for iteration, _ in told]
        least = min(iterations)
        ranks = [rank for rank, iteration in enumerate(iterations) if iteration == least]
        if len(ranks) == len(told):
            # All are in the same iteration: this one may be the one that hangs, or wait for it.
            ranks = [comm.get_rank()]
        names = ", ".join(f"{rank} on {told[rank][1]}" for rank in ranks)
        return (
            f"iteration {least} has not ended after {self._seconds:.0f} s (SOLVER.HANG_MINUTES): "
            f"process {names} is behind the others or hangs; --resume continues from the last "
            "checkpoint"
        )


def _key(rank: int) -> str:
    return f"longtail/iteration/{rank}"
