# SPDX-License-Identifier: Apache-2.0
"""Ending a training so that it can be continued: signals and failures."""

import signal
import sys
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from longtail.engine.training.checkpoints import PeriodicCheckpoint

# What schedulers send before they take a machine away: SLURM, Kubernetes, spot instances.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# 128 + SIGTERM: the run can be continued.
EXIT_CODE = 143


class Interruption(HookBase):
    """After a signal finish the iteration, write a checkpoint, and end with exit code 143.

    It is the last hook, so that the iteration is over in every respect.
    """

    def __init__(self, checkpoint: PeriodicCheckpoint) -> None:
        """Take what writes the last checkpoint.

        Args:
            checkpoint: writes it.
        """
        self._checkpoint = checkpoint
        self._received = 0
        self._before: dict[int, object] = {}

    def before_train(self) -> None:
        """Listen to the signals."""
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)

    def after_train(self) -> None:
        """Leave the signals to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def after_step(self) -> None:
        """End the run if a process was told to."""
        received = _largest(self._received)
        if not received or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        if comm.is_main_process():
            self._checkpoint.save()
            print(
                f"{signal.Signals(received).name}: stopped after iteration {self.trainer.iter}, "
                f"the same command with --resume continues",
                file=sys.stderr,
                flush=True,
            )
        comm.synchronize()
        raise SystemExit(EXIT_CODE)


def _largest(number: int) -> int:
    """The largest over all processes, which must end in the same iteration."""
    if comm.get_world_size() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)
