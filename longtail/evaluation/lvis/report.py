# SPDX-License-Identifier: Apache-2.0
"""The metrics of an LVIS evaluation as a file and as a table.

Shapes: K categories; T, R and A as in :mod:`longtail.evaluation.lvis.metrics`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail.evaluation.lvis.annotations import LVISAnnotations
from longtail.evaluation.lvis.precision import ENDINGS
from longtail.evaluation.report import plain_table


def build_report(
    dataset_name: str,
    num_images: int,
    annotations: LVISAnnotations,
    metrics: Mapping[str, Mapping[str, float]],
    curves: Mapping[tuple[str, str], np.ndarray],
) -> dict[str, Any]:
    """Build the content of ``lvis_evaluation.json``.

    Args:
        dataset_name: the registered name.
        num_images: number of evaluated images.
        annotations: the data set's.
        metrics: in percent, by task.
        curves: (T, R, K, A) precision by task and mode.

    Returns:
        ``{"dataset", "num_images", "tasks": metrics, "categories": [{"id", "name", "frequency",
        "image_count", "bbox": {"AP", "AP_fixed"}, "segm": ...}, ...]}``, all AP in percent and
        NaN where a category has no annotation.
    """
    rows = [dict(category) for category in annotations.categories]
    for (task, mode), precision in curves.items():
        # A category's precision over all areas is known everywhere or nowhere.
        for row, ap in zip(rows, precision[..., 0].mean(axis=(0, 1)).tolist(), strict=True):
            row.setdefault(task, {})[f"AP{ENDINGS[mode]}"] = 100 * ap
    return {
        "dataset": dataset_name,
        "num_images": num_images,
        "tasks": {task: dict(values) for task, values in metrics.items()},
        "categories": rows,
    }


def format_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Format metrics as a plain-text table, a row for each task and mode.

    Args:
        metrics: in percent, by task.
    """
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
    rows = []
    for task, values in metrics.items():
        for mode, ending in (*ENDINGS.items(), ("pool", "_pool")):
            if f"AP{ending}" in values:
                rows.append([f"{task} {mode}", *(values.get(f"{n}{ending}") for n in names)])
    table = plain_table(rows, ["", *names], missing="-")
    return f"{table}\n(in percent; nan: no annotation)"
