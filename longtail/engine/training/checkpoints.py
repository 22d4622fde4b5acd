# SPDX-License-Identifier: Apache-2.0
"""When a training writes checkpoints, which it keeps, and which is the best."""

import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from longtail.engine.checkpoint import Checkpointer
from longtail.engine.run_folder import PERIODIC, remove
from longtail.utils.errors import StoppedError, one_line


class PeriodicCheckpoint(HookBase):
    """Write ``model_NNNNNNN.pth`` by iterations, by minutes, or both, and ``model_final.pth``.

    A disk that is full, or away, does not end the training at once: the earlier checkpoint stays,
    and the training goes on. If the next attempt fails as well, a :class:`.StoppedError` ends it.
    """

    def __init__(
        self, checkpointer: Checkpointer, *, period: int, minutes: float = 0, keep: int = 0
    ) -> None:
        """Say when checkpoints are due.

        Args:
            checkpointer: writes them.
            period: iterations from one to the next, > 0.
            minutes: the longest time from one to the next; 0 for no limit.
            keep: how many of the newest stay, ``model_final.pth`` apart; 0 for all.
        """
        self._checkpointer = checkpointer
        self._period, self._minutes, self._keep = period, minutes, keep
        self._failed = False

    def before_train(self) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def after_step(self) -> None:
        """Write one if it is due."""
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            self._checkpointer.save("model_final", iteration=self.trainer.iter)
            self._remove_old()
            return
        late = self._minutes and time.monotonic() - self._last >= 60 * self._minutes
        if late or done % self._period == 0:
            self._try_to_save()

    def save(self) -> None:
        """Write one for the iteration that was finished last."""
        self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)

    def _try_to_save(self) -> None:
        self._last = time.monotonic()
        try:
            self.save()
        except OSError as error:
            if self._failed:
                raise StoppedError(
                    f"two checkpoints in a row could not be written, the last one at iteration "
                    f"{self.trainer.iter} ({one_line(error)}): make room, then the same command "
                    "with --resume continues"
                ) from error
            self._failed = True
            logging.getLogger(__name__).warning(
                "the checkpoint of iteration %d could not be written to %s (%s): make room; the "
                "training ends if the next one fails, too",
                *(self.trainer.iter, self._checkpointer.save_dir, error),
            )
            return
        self._failed = False
        self._remove_old()

    def _remove_old(self) -> None:
        if not (self._keep and comm.is_main_process()):
            return
        folder = Path(self._checkpointer.save_dir)
        written = [path for path in folder.iterdir() if PERIODIC.fullmatch(path.name)]
        # By time: after a resume from before a damaged one the newest has a smaller number.
        written.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in written[: -self._keep]:
            remove(path)


class BestCheckpoint(HookBase):
    """Keep the weights with the largest value of a metric in ``model_best.pth``."""

    def __init__(self, checkpointer: Checkpointer, metric: str) -> None:
        """Name the metric.

        Args:
            checkpointer: writes them.
            metric: as in metrics.json, such as ``sem_seg/mIoU``; larger is better.
        """
        self._checkpointer, self._metric = checkpointer, metric
        self._best, self._iteration = -math.inf, -1

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self._best, "iteration": self._iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self._best, self._iteration = state["best"], state["iteration"]

    def after_step(self) -> None:
        """Write the weights if an evaluation of this iteration has a better value."""
        self._update()

    def after_train(self) -> None:
        """The same for the evaluation at the end."""
        self._update()

    def _update(self) -> None:
        latest = self.trainer.storage.latest()
        if self._metric not in latest:
            return
        value, iteration = latest[self._metric]
        if iteration == self._iteration or not value > self._best:
            return
        self._best, self._iteration = value, iteration
        if comm.is_main_process():
            self._checkpointer.save_weights("model_best")
            logging.getLogger(__name__).info(
                "%s is best so far: %.4f, in %s",
                *(self._metric, value, os.path.join(self._checkpointer.save_dir, "model_best.pth")),
            )
