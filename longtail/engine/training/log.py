# SPDX-License-Identifier: Apache-2.0
"""The log of a training across interruptions: averages, metrics.json, evaluations.

After any number of interruptions metrics.json holds what one unbroken run would have written, each
iteration once; only times differ.
"""

import json
import logging
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.engine.train_loop import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from longtail.engine.training.writers import ServiceWriter, TensorboardWriter
from longtail.utils.io import atomic_write, write_json

# What detectron2's writers take medians and averages over.
WINDOW = 20
# What says how fast this process is: not a part of the training's state.
CLOCKS = ("time", "eta_seconds")


class HostMemory(HookBase):
    """Log the peak memory of the process, for runs without a GPU."""

    def after_step(self) -> None:
        """Put it into the storage."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, Linux kilobytes.
        peak_mb = peak / (2**20 if sys.platform == "darwin" else 2**10)
        self.trainer.storage.put_scalar("max_host_mem_mb", peak_mb, smoothing_hint=False)


class HostMemoryPrinter(EventWriter):
    """Print, on a machine without GPU, the memory that detectron2's printer leaves out there."""

    def write(self) -> None:
        """Print it on the console."""
        memory = get_event_storage().latest().get("max_host_mem_mb")
        if memory is not None and not torch.cuda.is_available():
            logging.getLogger(__name__).info("max_host_mem: %.0fM", memory[0])


class MetricsWriter(EventWriter):
    """Write metrics.json as detectron2 does: a line a period, with medians of the last values."""

    def __init__(self, path: str | os.PathLike) -> None:
        """Name the file.

        Args:
            path: the file; it is opened with the first line, and lines are added to it.
        """
        self._path = Path(path)
        self._file: IO | None = None
        # The last iteration that is in the file.
        self.written = -1

    def write(self) -> None:
        """Add what was put into the storage since the last time, by iteration."""
        lines: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in (
            get_event_storage().latest_with_smoothing_hint(WINDOW).items()
        ):
            if iteration > self.written:
                lines.setdefault(iteration, {})[name] = value
        if not lines:
            return
        if self._file is None:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed below)
        for iteration in sorted(lines):
            line = {**lines[iteration], "iteration": iteration}
            self._file.write(json.dumps(line, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.written = max(lines)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def cut(self, last: int) -> None:
        """Remove the lines after an iteration, and one that a kill has cut short.

        Args:
            last: the last iteration that stays.
        """
        self.close()
        self.written = last
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["iteration"] <= last:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        with atomic_write(self._path) as file:
            file.writelines(kept)


class LogState(HookBase):
    """Keep what a log's next lines need in checkpoints: the last values, and what is written."""

    def __init__(self, writer: MetricsWriter, others: Sequence[EventWriter] = ()) -> None:
        """Take the writer whose state is kept.

        Args:
            writer: of metrics.json.
            others: that have a ``continue_after``, the last iteration before this start.
        """
        self._writer, self._others = writer, others
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The last values of each scalar, and the last iteration in metrics.json."""
        storage = getattr(self.trainer, "storage", None)
        if storage is None:
            return {}
        hints = storage.smoothing_hints()
        scalars = {
            name: {
                "values": [[float(v), int(i)] for v, i in history.values()[-WINDOW:]],
                "smooth": bool(hints[name]),
            }
            for name, history in storage.histories().items()
            if name not in CLOCKS
        }
        return {"written": self._writer.written, "scalars": scalars}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave; it is used when the training begins."""
        self._loaded = state

    def before_train(self) -> None:
        """Fill the storage, and cut metrics.json back to the checkpoint."""
        if self._loaded is None:
            return
        self._writer.cut(self._loaded["written"])
        for writer in self._others:
            writer.continue_after(self._loaded["written"])
        storage: EventStorage = self.trainer.storage
        for name, scalar in self._loaded["scalars"].items():
            for value, iteration in scalar["values"]:
                storage.iter = iteration
                storage.put_scalar(name, value, smoothing_hint=scalar["smooth"])
        storage.iter = self.trainer.start_iter


class Evaluation(EvalHook):
    """Evaluate periodically and at the end, each time once, however often a run is interrupted.

    The metrics are kept in ``last_evaluation.json`` until the next evaluation: when the checkpoint
    that a run continues from is older than an evaluation, that is not repeated.
    """

    FILE = "last_evaluation.json"

    def _do_eval(self) -> None:
        path = Path(self.trainer.cfg.OUTPUT_DIR) / self.FILE
        iteration = self.trainer.iter
        kept = _read(path) if self.catching_up else None
        # One decision for all processes, some of which may not see the file.
        kept = comm.all_gather(kept)[0]
        if kept is not None and kept["iteration"] == iteration:
            latest = self.trainer.storage.latest()
            # A checkpoint that was written after the evaluation has them already.
            new = {
                k: v for k, v in kept["metrics"].items() if latest.get(k, (0, -1))[1] != iteration
            }
            self.trainer.storage.put_scalars(**new, smoothing_hint=False)
            return
        super()._do_eval()
        latest = self.trainer.storage.latest()
        metrics = {name: v for name, (v, i) in latest.items() if name in self._names()}
        if comm.is_main_process():
            write_json(path, {"iteration": iteration, "metrics": metrics})

    catching_up = False

    def after_train(self) -> None:
        """Evaluate what was trained to the end."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
        # It holds the trainer, which holds this.
        del self._func

    def _names(self) -> set[str]:
        results = getattr(self.trainer, "_last_eval_results", None) or {}
        return set(flatten_results_dict(results))


class Writers(PeriodicWriter):
    """Write the log periodically and at the end; one that is cut short adds no line."""

    def before_train(self) -> None:
        """Reach services now: what is wrong with one is not found after the first iterations."""
        for writer in self._writers:
            if isinstance(writer, ServiceWriter):
                writer.begin()

    def after_train(self) -> None:
        """Write what is new, if the training has ended, and close the files."""
        for writer in self._writers:
            if self.trainer.iter >= self.trainer.max_iter:
                writer.write()
                if isinstance(writer, TensorboardWriter):
                    writer.write_hparams(self._metrics())
            writer.close()

    def _metrics(self) -> dict[str, float]:
        """Those of the last evaluation, by the tags of the log."""
        kept = _read(Path(self.trainer.cfg.OUTPUT_DIR) / Evaluation.FILE)
        return kept["metrics"] if kept else {}


class CatchUp(HookBase):
    """Do what was due after the checkpoint's iteration, and may not have been done before the kill.

    Checkpoints are written before evaluations, so that a failed one costs nothing but itself.
    """

    def __init__(self, hooks: list[HookBase]) -> None:
        """Choose the hooks that have something to catch up on.

        Args:
            hooks: those that come after the checkpoint in every iteration.
        """
        self._hooks = hooks

    def before_train(self) -> None:
        """Run them for the last iteration that was trained."""
        trainer = self.trainer
        start = trainer.start_iter
        if not 0 < start <= trainer.max_iter:
            return
        trainer.iter = trainer.storage.iter = start - 1
        for hook in self._hooks:
            hook.catching_up = True
            hook.after_step()
            hook.catching_up = False
        trainer.iter = trainer.storage.iter = start


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        # NaN is written as null.
        kept["metrics"] = {
            name: float("nan") if value is None else value
            for name, value in kept["metrics"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return kept
