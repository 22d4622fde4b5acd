# SPDX-License-Identifier: Apache-2.0
"""Ending a training so that it can be continued: signals and failures."""

import os
import signal
import sys
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from longtail.engine.training.checkpoints import PeriodicCheckpoint
from longtail.utils.errors import RESUMABLE

# What schedulers send before they take a machine away: SLURM, Kubernetes, spot instances.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interruption(HookBase):
    """After a signal finish the iteration, write a checkpoint, and end with exit code 143.

    It is the last hook, so that the iteration is over in every respect.
    """

    def __init__(self, checkpoint: PeriodicCheckpoint, *, everywhere: bool = False) -> None:
        """Take what writes the last checkpoint.

        Args:
            checkpoint: writes it.
            everywhere: in all processes, not in the main one alone.
        """
        self._checkpoint, self._everywhere = checkpoint, everywhere
        # The signal that has come, or 0.
        self.received = 0
        self._before: dict[int, object] = {}

    def before_train(self) -> None:
        """Listen to the signals."""
        self._process = os.getpid()
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)

    def after_train(self) -> None:
        """Leave the signals to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Workers have the handler, too.
        if os.getpid() != self._process:
            return
        self.received = number
        # Evaluations take longer than schedulers wait; they are repeated after a resume. Several
        # processes have to end together, after it.
        if self.trainer.is_evaluating and comm.get_world_size() == 1:
            self._end(number)

    def after_step(self) -> None:
        """End the run if a process was told to."""
        received = _largest(self.received)
        if received and self.trainer.iter + 1 < self.trainer.max_iter:
            self._end(received)

    def _end(self, received: int) -> None:
        # In the last evaluation the iteration is one more than the last one, which is saved.
        last = min(self.trainer.iter, self.trainer.max_iter - 1)
        if (self._everywhere or comm.is_main_process()) and last + 1 < self.trainer.max_iter:
            self._checkpoint.save()
        comm.synchronize()
        raise self.ended(received, last)

    def ended(self, number: int, last: int) -> SystemExit:
        """What ends the program after a signal, with a line of the main process.

        Args:
            number: of the signal.
            last: the iteration whose checkpoint is written.
        """
        if comm.is_main_process():
            print(
                f"{signal.Signals(number).name}: stopped after iteration {last}, the same command "
                "with --resume continues",
                file=sys.stderr,
                flush=True,
            )
        return SystemExit(RESUMABLE)


def _largest(number: int) -> int:
    """The largest over all processes, which must end in the same iteration."""
    if comm.get_world_size() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)
