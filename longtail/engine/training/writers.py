# SPDX-License-Identifier: Apache-2.0
"""Optional writers of a training's log: TensorBoard, Weights & Biases, MLflow.

Each holds every iteration once, however often a run is interrupted: TensorBoard is told which steps
are repeated, and what a service has is kept in a file of OUTPUT_DIR.
"""

import json
import logging
import math
import uuid
from abc import abstractmethod
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from longtail.config import flat_config, get_cfg
from longtail.utils.errors import one_line
from longtail.utils.io import write_json

# What detectron2's writers take medians over.
WINDOW = 20
# MLflow's limits: characters of a parameter's value, parameters in one call.
LENGTH = 500
COUNT = 100


class TensorboardWriter(TensorboardXWriter):
    """detectron2's writer, which continues after an interruption; opened with the first values."""

    def __init__(self, cfg: CfgNode) -> None:
        """Take the config.

        Args:
            cfg: read for OUTPUT_DIR and LOG.TENSORBOARD.HPARAMS.
        """
        self._cfg = cfg
        self._window_size = WINDOW
        self._last_write = -1
        self._resumed_at: int | None = None

    def continue_after(self, last: int) -> None:
        """Have what comes after an iteration replaced: it is trained again.

        Args:
            last: the last iteration that stays.
        """
        self._last_write, self._resumed_at = last, last + 1

    def write(self) -> None:
        """Add what is new in the storage."""
        if not hasattr(self, "_writer"):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._cfg.OUTPUT_DIR, purge_step=self._resumed_at)
        super().write()

    def write_hparams(self, metrics: dict[str, float]) -> None:
        """Fill the tab of hyper-parameters, at the end of a training.

        Args:
            metrics: by their tags, which the log has already.
        """
        from torch.utils.tensorboard.summary import hparams

        if self._cfg.LOG.TENSORBOARD.HPARAMS and metrics and hasattr(self, "_writer"):
            for summary in hparams(changed_values(self._cfg), metrics):
                self._writer.file_writer.add_summary(summary)


class ServiceWriter(EventWriter):
    """A writer to a service, whose run is continued by its id.

    What a service has cannot be cut: iterations that it has are not sent again. An exact
    continuation would send the same values.
    """

    # The service's name, in LOG.WRITERS and as the name of its package.
    name: str

    def __init__(self, cfg: CfgNode) -> None:
        """Read which run is continued.

        Args:
            cfg: read for OUTPUT_DIR, LOG.PROJECT and what is recorded of a run.
        """
        self._cfg = cfg
        self._path = Path(cfg.OUTPUT_DIR) / f"{self.name}_run.json"
        self._id, self._written = "", -1
        self._opened = self._lost = False

    def continue_after(self, last: int) -> None:
        """Continue the run that this folder has begun.

        Args:
            last: the last iteration that stays; later ones, if they were sent, are kept.
        """
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            self._id, self._written = str(state["id"]), int(state["written"])
        except (OSError, ValueError, KeyError, TypeError):
            # It was begun without the service.
            self._written = last

    def write(self) -> None:
        """Send what is new in the storage, by iteration."""
        if self._lost:
            return
        lines: dict[int, dict[str, float]] = {}
        for key, (value, step) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if step > self._written and math.isfinite(value):
                lines.setdefault(step, {})[key] = value
        if not lines:
            return
        self.begin()
        # Before it is sent: a kill in between leaves a gap, not a line twice.
        self._written = max(lines)
        write_json(self._path, {"id": self._id, "written": self._written})
        try:
            for step in sorted(lines):
                self.send(lines[step], step)
        # Errors are of the service's own types. metrics.json has all that is lost here.
        except Exception as error:
            self._lost = True
            logging.getLogger(__name__).warning(
                "LOG.WRITERS: %s is lost after iteration %d, the training goes on without it: %s",
                *(self.name, self._written, one_line(error)),
            )

    def begin(self) -> None:
        """Continue the service's run, or begin one.

        Raises:
            ValueError: the service cannot be reached, or refuses the run.
        """
        if self._opened:
            return
        try:
            self._id = self.open(self._id)
        except Exception as error:
            raise ValueError(
                f"LOG.WRITERS names {self.name}, which cannot begin a run: {one_line(error)}"
            ) from error
        self._opened = True

    def close(self) -> None:
        """End the connection, not the run."""
        if self._opened and not self._lost:
            self.end()
        self._opened = False

    @abstractmethod
    def open(self, run: str) -> str:
        """Continue a run, or begin one where ``run`` is empty; returns its id."""

    @abstractmethod
    def send(self, values: dict[str, float], step: int) -> None:
        """Send the values of an iteration."""

    @abstractmethod
    def end(self) -> None:
        """Wait until everything is sent."""


class WandbWriter(ServiceWriter):
    """Weights & Biases; ``WANDB_MODE=offline`` and its other variables are its own."""

    name = "wandb"

    def open(self, run: str) -> str:
        """As :meth:`ServiceWriter.open`."""
        run = run or uuid.uuid4().hex
        self._run = import_module("wandb").init(
            project=self._cfg.LOG.PROJECT,
            id=run,
            resume="allow",
            name=Path(self._cfg.OUTPUT_DIR).name,
            dir=self._cfg.OUTPUT_DIR,
            config=flat_config(self._cfg),
        )
        return run

    def send(self, values: dict[str, float], step: int) -> None:
        """As :meth:`ServiceWriter.send`."""
        self._run.log(values, step=step)

    def end(self) -> None:
        """As :meth:`ServiceWriter.end`."""
        self._run.finish()


class MlflowWriter(ServiceWriter):
    """MLflow: into ./mlflow.db, or to the server that ``MLFLOW_TRACKING_URI`` names."""

    name = "mlflow"

    def open(self, run: str) -> str:
        """As :meth:`ServiceWriter.open`."""
        mlflow = import_module("mlflow")
        mlflow.set_experiment(self._cfg.LOG.PROJECT)
        if run:
            mlflow.start_run(run_id=run)
            return run
        run = mlflow.start_run(run_name=Path(self._cfg.OUTPUT_DIR).name).info.run_id
        values = [(key, str(value)[:LENGTH]) for key, value in flat_config(self._cfg).items()]
        for start in range(0, len(values), COUNT):
            mlflow.log_params(dict(values[start : start + COUNT]))
        return run

    def send(self, values: dict[str, float], step: int) -> None:
        """As :meth:`ServiceWriter.send`."""
        import_module("mlflow").log_metrics(values, step=step)

    def end(self) -> None:
        """As :meth:`ServiceWriter.end`."""
        import_module("mlflow").end_run()


WRITERS = {"tensorboard": TensorboardWriter, "wandb": WandbWriter, "mlflow": MlflowWriter}


def check_writers(cfg: CfgNode) -> None:
    """Check that what LOG.WRITERS names is there.

    Args:
        cfg: the complete config.

    Raises:
        ValueError: a name is not one of :data:`WRITERS`, or its package is not installed.
    """
    for name in cfg.LOG.WRITERS:
        if name not in WRITERS:
            raise ValueError(f"LOG.WRITERS must be of {list(WRITERS)}, got {name!r}")
        spec = find_spec(name)
        # A folder of that name, which its earlier runs have left here, is not the package.
        if spec is None or spec.origin is None:
            raise ValueError(
                f"LOG.WRITERS names {name}, which is not installed: run pip install "
                f'"detectron2-longtail[{name}]", or leave it out'
            )


def build_optional_writers(cfg: CfgNode) -> list[EventWriter]:
    """The writers of LOG.WRITERS; TensorBoard, which empties the storage, is the last one.

    Args:
        cfg: the complete config.
    """
    names = sorted(cfg.LOG.WRITERS, key=lambda name: name == "tensorboard")
    return [WRITERS[name](cfg) for name in dict.fromkeys(names)]


def changed_values(cfg: CfgNode) -> dict[str, str | bool | int | float]:
    """The values of a config that are not the defaults, as TensorBoard takes them.

    Args:
        cfg: the complete config.
    """
    defaults = flat_config(get_cfg())
    return {
        key: value if isinstance(value, (str, bool, int, float)) else str(value)
        for key, value in flat_config(cfg).items()
        if key not in defaults or defaults[key] != value
    }
