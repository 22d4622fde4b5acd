# SPDX-License-Identifier: Apache-2.0
"""Finished runs, read from the files that their evaluations left behind.

Metrics have the names of the papers' tables, whatever a task's own report calls them: ``mIoU``,
``mIoU head``, ``mIoU (m.s.)``; ``average``, ``many``; ``box AP``, ``mask APr``.

Shapes: K classes.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import yaml

from longtail.analysis.metric_names import table_metrics
from longtail.evaluation.base import FORMAT
from longtail.evaluation.report import CONFUSION
from longtail.utils.errors import first_line

SINGLE_SCALE, MULTI_SCALE = "inference", "inference_TTA"
REPORTS = ("sem_seg", "classification", "lvis")
COUNTS = ("pixels", "images", "instances")
_REMEDY = "evaluate the run again with longtail train --eval-only"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of a model on a test set.

    Attributes:
        path: the report that it was read from.
        task: ``"sem_seg"``, ``"classification"`` or ``"lvis"``.
        dataset: the registered name of the test set.
        fingerprint: of the test set; equal ones are of the same images and ground truth.
        num_images: evaluated images.
        multi_scale: whether it is multi-scale testing.
        class_names: K names.
        groups: class indices by group: ``head``, ``body``, ``tail``; ``many``, ``medium``, ``few``;
            ``r``, ``c``, ``f``. Empty where frequencies are not known.
        train_counts: (K,) int64 counts in the training set, of those of ``pixels``, ``images``
            (images that contain the class) and ``instances`` that are known.
        metrics: in percent under the names of the papers' tables; NaN where there is none.
        per_class: (K,) percent by metric: ``IoU`` and ``Acc``; ``acc``; ``box AP`` and
            ``mask AP``. NaN for a class without ground truth.
        provenance: see :func:`~longtail.evaluation.provenance.provenance`.
        config: values by full key, such as ``SOLVER.MAX_ITER``.
    """

    path: Path
    task: str
    dataset: str
    fingerprint: str
    num_images: int
    multi_scale: bool
    class_names: tuple[str, ...]
    groups: dict[str, tuple[int, ...]]
    train_counts: dict[str, np.ndarray]
    metrics: dict[str, float]
    per_class: dict[str, np.ndarray]
    provenance: dict[str, Any]
    config: dict[str, Any]

    @property
    def is_final(self) -> bool:
        """Tell whether the model was trained to the end of its schedule, as far as is known."""
        iteration = self.provenance["iteration"]
        return iteration is None or iteration >= self.config["SOLVER.MAX_ITER"]

    def confusion(self) -> np.ndarray | None:
        """Read the confusion matrix, (K, K) int64: rows are the ground truth.

        Returns:
            None where the task has none.

        Raises:
            ValueError: the file is damaged, or of other classes.
        """
        path = self.path.with_name(CONFUSION)
        if self.task == "lvis":
            return None
        try:
            matrix = scipy.sparse.load_npz(path)
        # The module raises many kinds on bytes that it did not expect.
        except Exception as error:
            raise ValueError(f"{path} cannot be read ({first_line(error)}): {_REMEDY}") from None
        size = len(self.class_names)
        if matrix.shape != (size, size):
            raise ValueError(
                f"{path} has the shape {matrix.shape}, but {self.path.name} has {size} classes: "
                f"{_REMEDY}"
            )
        return matrix.toarray()


@dataclass(frozen=True, eq=False)
class Run:
    """A folder (``OUTPUT_DIR``) with the evaluations of one model.

    Attributes:
        folder: the folder.
        evaluations: one or more.
    """

    folder: Path
    evaluations: tuple[Evaluation, ...]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """Values of the config by full key."""
        return self.evaluations[0].config

    @property
    def seed(self) -> int:
        """``SEED``; -1 for one that nobody knows."""
        return self.config["SEED"]

    @property
    def test_sets(self) -> tuple[str, ...]:
        """The registered names of the test sets."""
        return tuple(dict.fromkeys(e.dataset for e in self.evaluations))

    def evaluation(self, dataset: str = "", *, multi_scale: bool = False) -> Evaluation | None:
        """Find the evaluation on a test set.

        Args:
            dataset: its name; by default the only one, or the first.
            multi_scale: whether multi-scale testing is wanted.

        Returns:
            None if there is none.
        """
        dataset = dataset or self.test_sets[0]
        wanted = (dataset, multi_scale)
        return next((e for e in self.evaluations if (e.dataset, e.multi_scale) == wanted), None)

    def metrics(self, dataset: str = "") -> dict[str, float]:
        """Collect the metrics on a test set, of one and of several scales.

        Args:
            dataset: its name; by default the only one, or the first.
        """
        dataset = dataset or self.test_sets[0]
        found = {}
        for evaluation in self.evaluations:
            if evaluation.dataset == dataset:
                found.update(evaluation.metrics)
        return found

    def history(self) -> list[dict[str, float]]:
        """Read what the training run logged, a dict for each line of ``metrics.json``.

        A line that was cut short, by a kill, is left out. Empty if there was no training here.
        """
        path = self.folder / "metrics.json"
        if not path.is_file():
            return []
        lines = []
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("iteration"), int):
                lines.append(line)
        return lines


def read_run(folder: str | os.PathLike) -> Run:
    """Read the evaluations of one run.

    Args:
        folder: its ``OUTPUT_DIR``.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no evaluation, or a damaged one.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"the run {folder} does not exist: name the OUTPUT_DIR of a run")
    evaluations = tuple(_evaluations(path))
    if not evaluations:
        raise ValueError(
            f"{folder} has no evaluation ({SINGLE_SCALE}/<data set>/*_evaluation.json): name the "
            f"OUTPUT_DIR of a finished run, or {_REMEDY}"
        )
    return Run(path, evaluations)


def find_runs(folders: Iterable[str | os.PathLike]) -> list[Run]:
    """Read every run in some folders or below them.

    Args:
        folders: each the ``OUTPUT_DIR`` of a run, or above several.

    Returns:
        Runs in the order of their folders' names, each once.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder holds no run, or an evaluation is damaged.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        path = Path(folder)
        if not path.is_dir():
            raise FileNotFoundError(f"the folder {folder} does not exist: name folders of runs")
        # Named as the user named them.
        inside = {
            inference.parent
            for name in (SINGLE_SCALE, MULTI_SCALE)
            for inference in path.rglob(name)
            if any(_reports(inference))
        }
        if not inside:
            raise ValueError(
                f"{folder} holds no run with an evaluation: name the OUTPUT_DIR of finished runs, "
                "or a folder above them"
            )
        for run_folder in sorted(inside):
            found.setdefault(run_folder.resolve(), Run(run_folder, tuple(_evaluations(run_folder))))
    return list(found.values())


def _reports(inference: Path) -> Iterator[Path]:
    for task in REPORTS:
        yield from sorted(inference.glob(f"*/{task}_evaluation.json"))


def _evaluations(folder: Path) -> Iterator[Evaluation]:
    for name in (SINGLE_SCALE, MULTI_SCALE):
        for path in _reports(folder / name):
            yield read_evaluation(path)


def read_evaluation(path: str | os.PathLike) -> Evaluation:
    """Read the report of one evaluation.

    Args:
        path: a ``*_evaluation.json``.

    Raises:
        ValueError: it is cut short, or not such a report, or one of an older version.
    """
    path = Path(path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}): {_REMEDY}") from None
    form = report.get("format") if isinstance(report, dict) else None
    if form != FORMAT:
        raise ValueError(
            f"{path} is not a report of this version (format {form!r}, expected {FORMAT}): "
            f"{_REMEDY}"
        )
    try:
        return _parsed(path, report)
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        what = f"{type(error).__name__} {first_line(error)}"
        raise ValueError(f"{path} is damaged ({what}): {_REMEDY}") from None


def _parsed(path: Path, report: dict[str, Any]) -> Evaluation:
    task = report["task"]
    rows = report["categories" if task == "lvis" else "classes"]
    multi_scale = path.parent.parent.name == MULTI_SCALE
    metrics, per_class = table_metrics(task, report, multi_scale=multi_scale)
    counts = {name: [row.get(f"train_{name}") for row in rows] for name in COUNTS}
    return Evaluation(
        path=path,
        task=task,
        dataset=report["dataset"],
        fingerprint=report["fingerprint"],
        num_images=report["num_images"],
        multi_scale=multi_scale,
        class_names=tuple(str(row["name"]) for row in rows),
        groups=_groups(rows, "frequency" if task == "lvis" else "group"),
        train_counts={
            name: np.array(values, np.int64)
            for name, values in counts.items()
            if None not in values
        },
        metrics={name: _number(value) for name, value in metrics.items()},
        per_class={
            name: np.array([_number(value) for value in values])
            for name, values in per_class.items()
        },
        provenance={"iteration": None, **report["provenance"]},
        config=flat_config(yaml.safe_load(report["provenance"].get("config") or "{}")),
    )


def _groups(rows: list[dict[str, Any]], key: str) -> dict[str, tuple[int, ...]]:
    groups: dict[str, tuple[int, ...]] = {}
    for index, row in enumerate(rows):
        if row[key] is not None:
            groups[row[key]] = (*groups.get(row[key], ()), index)
    return groups


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values of a config.

    Args:
        config: such as YAML holds it.
        prefix: of the keys.

    Returns:
        Values by full key, such as ``SOLVER.MAX_ITER``.
    """
    values = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values |= flat_config(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values
