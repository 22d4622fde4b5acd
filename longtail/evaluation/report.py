# SPDX-License-Identifier: Apache-2.0
"""Reports over a closed set of classes: what the tasks share of their dicts, files and tables.

A report is a dict ``{<overall metric>: value, ..., "groups": {group: {<metric>: value, ...,
"num_classes": n}}, "classes": [{"index", "name", <metric>: value, ...}, ...]}``; further entries
may stand beside these. Every metric is in percent; NaN stands for none (empty in the CSV, ``null``
in the JSON).

Shapes: K classes.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from longtail.evaluation.metrics import grouped_mean
from longtail.utils.io import atomic_write, write_json
from longtail.utils.text import write_csv

Report = dict[str, Any]
CONFUSION = "confusion_matrix.npz"


class ReportLayout(NamedTuple):
    """Names of what a task reports."""

    file_name: str
    """Name of the files, without ending."""
    overall: tuple[str, ...]
    """Metrics over everything."""
    of_groups: tuple[str, ...]
    """Metrics of each group of classes."""
    of_classes: tuple[str, ...]
    """Metrics of each class."""


def group_entries(
    values: Mapping[str, torch.Tensor], groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Average the values of the classes of each group.

    Args:
        values: (K,) values of the classes under the name that the mean gets.
        groups: class indices by group name.

    Returns:
        ``{group: {<name>: mean, ..., "num_classes": n}}``.
    """
    means = {name: grouped_mean(of_classes, groups) for name, of_classes in values.items()}
    return {
        group: {**{name: means[name][group] for name in values}, "num_classes": len(classes)}
        for group, classes in groups.items()
    }


def group_of_classes(groups: Mapping[str, Sequence[int]], num_classes: int) -> list[str | None]:
    """Name the group of each class.

    Args:
        groups: class indices by group name, each class in at most one.
        num_classes: K.

    Returns:
        K names, None for a class in no group.
    """
    names: list[str | None] = [None] * num_classes
    for group, classes in groups.items():
        for index in classes:
            names[index] = group
    return names


def class_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Turn K values of each column into K rows.

    Args:
        columns: K values by the name of the column.
    """
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def flat_results(report: Report, layout: ReportLayout) -> dict[str, float]:
    """Flatten a report for detectron2, which shows and verifies one flat dict of floats.

    Args:
        report: of ``layout``.
        layout: names of its metrics.

    Returns:
        ``<metric>`` over all, ``<metric>-<group>`` of every group and ``<metric>-<class>`` of
        every class; of classes with the same name the last one's. detectron2's
        ``print_csv_format`` shows the ones without a hyphen.
    """
    results = {key: report[key] for key in layout.overall}
    for key in layout.of_groups:
        results |= {f"{key}-{name}": group[key] for name, group in report["groups"].items()}
    for key in layout.of_classes:
        results |= {f"{key}-{row['name']}": row[key] for row in report["classes"]}
    return results


def write_report(report: Report, folder: str | os.PathLike, layout: ReportLayout) -> None:
    """Write a report as JSON (everything) and as CSV (a row a class), atomically.

    Args:
        report: with entries that JSON can encode.
        folder: made if missing.
        layout: its ``file_name`` is that of the two files.
    """
    folder = Path(folder)
    write_json(folder / f"{layout.file_name}.json", report)
    rows = report["classes"]
    with atomic_write(folder / f"{layout.file_name}.csv") as file:
        write_csv(file, list(rows[0]), rows)


def write_confusion(
    folder: str | os.PathLike,
    target: np.ndarray,
    prediction: np.ndarray,
    counts: np.ndarray,
    num_classes: int,
) -> None:
    """Write a confusion matrix (K, K) as ``confusion_matrix.npz``, atomically.

    ``scipy.sparse.load_npz`` reads it: rows are the ground truth, columns the predictions. With
    thousands of classes nearly all entries are 0, so that only the others are kept.

    Args:
        folder: made if missing.
        target: (N,) class indices of the ground truth.
        prediction: (N,) class indices that were predicted.
        counts: (N,) how often; entries of one pair are added up.
        num_classes: K.
    """
    import scipy.sparse  # takes 0.1 s, of which a training run need not know at its start

    shape = (num_classes, num_classes)
    matrix = scipy.sparse.coo_array((counts, (target, prediction)), shape=shape)
    matrix.sum_duplicates()
    with atomic_write(Path(folder) / CONFUSION, "wb") as file:
        scipy.sparse.save_npz(file, matrix)


def group_table(report: Report, layout: ReportLayout) -> str:
    """Format the metrics of all classes and of each group as a plain-text table.

    Args:
        report: of ``layout``.
        layout: names of its metrics; those of groups are shown.
    """
    metrics = layout.of_groups
    rows = [["all", len(report["classes"]), *(report[key] for key in metrics)]]
    for name, group in report["groups"].items():
        rows.append([name, group["num_classes"], *(group[key] for key in metrics)])
    return plain_table(rows, ["classes", "number", *metrics])


def plain_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], missing: str = "") -> str:
    """Format rows as a plain-text table, floats with two digits.

    Args:
        rows: cells; a row may be short.
        headers: names of the columns.
        missing: stands for None and for what a short row lacks.
    """
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".2f", missingval=missing)
