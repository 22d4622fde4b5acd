# SPDX-License-Identifier: Apache-2.0
"""One evaluation of a model, read from the files that its evaluator left behind.

Metrics have the names of the papers' tables, whatever a task's own report calls them: ``mIoU``,
``mIoU head``, ``mIoU (m.s.)``; ``average``, ``many``; ``box AP``, ``mask APr``.

Shapes: K classes.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import yaml

from longtail.analysis.metric_names import table_metrics
from longtail.config.loading import flat_config
from longtail.evaluation.base import FORMAT
from longtail.evaluation.report import CONFUSION
from longtail.utils.errors import first_line
from longtail.utils.text import without_control

SINGLE_SCALE = "inference"
MULTI_SCALE = "inference_TTA"
COUNTS = ("pixels", "images", "instances")
_REMEDY = "evaluate the run again with longtail train --eval-only"
# As safe as safe_load, and ten times as fast where libyaml is there.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of a model on a test set.

    Attributes:
        path: the report that it was read from.
        task: ``"sem_seg"``, ``"classification"`` or ``"lvis"``.
        dataset: the registered name of the test set.
        fingerprint: of the test set; equal ones are of images with the same names, and of the same
            classes and ground truth, as far as it is counted.
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
        return iteration is None or iteration >= self.config.get("SOLVER.MAX_ITER", 0)

    def confusion(self) -> scipy.sparse.coo_array | None:
        """Read the confusion matrix, (K, K) counts: rows are the ground truth.

        It is sparse: of 8,142 classes a dense one takes 530 MB.

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
        # Indices of other formats are not checked, and crash what reads them.
        if matrix.format != "coo" or matrix.dtype.kind not in "iu":
            raise ValueError(f"{path} does not hold counts as coo_array: {_REMEDY}")
        size = len(self.class_names)
        if matrix.shape != (size, size):
            raise ValueError(
                f"{path} has the shape {matrix.shape}, but {self.path.name} has {size} classes: "
                f"{_REMEDY}"
            )
        return scipy.sparse.coo_array(matrix)


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
        class_names=tuple(without_control(str(row["name"])) for row in rows),
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
        config=flat_config(yaml.load(report["provenance"].get("config") or "{}", _LOADER)),
    )


def _groups(rows: list[dict[str, Any]], key: str) -> dict[str, tuple[int, ...]]:
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row[key] is not None:
            groups.setdefault(row[key], []).append(index)
    return {name: tuple(members) for name, members in groups.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
