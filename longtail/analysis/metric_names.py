# SPDX-License-Identifier: Apache-2.0
"""The metrics of every task under the names that the papers' tables give them.

Shapes: K classes.
"""

from collections.abc import Callable
from typing import Any

# Of lvis-api's results -> as printed.
_LVIS_TASKS = {"bbox": "box", "segm": "mask"}
# How names of metrics end that are of several scales.
MULTI_SCALE_ENDING = " (m.s.)"

Metrics = dict[str, float | None]
PerClass = dict[str, list[float | None]]


def table_metrics(
    task: str, report: dict[str, Any], *, multi_scale: bool = False
) -> tuple[Metrics, PerClass]:
    """Rename what a report holds.

    Args:
        task: ``"sem_seg"``, ``"classification"`` or ``"lvis"``.
        report: the content of its ``*_evaluation.json``.
        multi_scale: whether it is of multi-scale testing; the names then end in ``(m.s.)``.

    Returns:
        Metrics over all classes and by group, and K values by the name of a metric of classes; all
        in percent, None where there is no value.

    Raises:
        KeyError: the report lacks a metric.
        ValueError: another task.
    """
    if task not in _TASKS:
        raise ValueError(f"unknown task {task!r}, expected one of {', '.join(_TASKS)}")
    metrics, per_class = _TASKS[task](report)
    if multi_scale:
        metrics = {f"{name}{MULTI_SCALE_ENDING}": value for name, value in metrics.items()}
    return metrics, per_class


def _sem_seg(report: dict[str, Any]) -> tuple[Metrics, PerClass]:
    metrics = {name: report[name] for name in ("mIoU", "mAcc", "aAcc", "fwIoU")}
    for group, values in report["groups"].items():
        metrics |= {f"{name} {group}": values[name] for name in ("mIoU", "mAcc")}
    return metrics, _columns(report["classes"], ("IoU", "Acc"))


def _classification(report: dict[str, Any]) -> tuple[Metrics, PerClass]:
    # The papers' average is over the images of test sets with equally many of each class.
    metrics = {"average": report["mean_acc"]}
    metrics |= {group: values["mean_acc"] for group, values in report["groups"].items()}
    metrics |= {name: report[name] for name in ("top1", "top5")}
    return metrics, _columns(report["classes"], ("acc",))


def _lvis(report: dict[str, Any]) -> tuple[Metrics, PerClass]:
    metrics, per_class = {}, {}
    for task, values in report["tasks"].items():
        kind = _LVIS_TASKS[task]
        metrics |= {f"{kind} {name}": value for name, value in values.items()}
        names = report["categories"][0].get(task, {})
        for name in names:
            per_class[f"{kind} {name}"] = [row[task][name] for row in report["categories"]]
    return metrics, per_class


def _columns(rows: list[dict[str, Any]], names: tuple[str, ...]) -> PerClass:
    return {name: [row[name] for row in rows] for name in names}


_TASKS: dict[str, Callable[[dict[str, Any]], tuple[Metrics, PerClass]]] = {
    "sem_seg": _sem_seg,
    "classification": _classification,
    "lvis": _lvis,
}
