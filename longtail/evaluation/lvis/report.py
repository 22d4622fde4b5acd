# SPDX-License-Identifier: Apache-2.0
"""The metrics of an LVIS evaluation as a file and as a table.

Shapes: K categories; T, R and A as in :mod:`longtail.evaluation.lvis.metrics`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from longtail.evaluation.base import test_set_fingerprint
from longtail.evaluation.lvis.annotations import LVISAnnotations
from longtail.evaluation.lvis.precision import ENDINGS
from longtail.evaluation.report import plain_table
from longtail.utils.io import atomic_write


def build_report(
    num_images: int,
    annotations: LVISAnnotations,
    metrics: Mapping[str, Mapping[str, float]],
    curves: Mapping[tuple[str, str], np.ndarray],
    per_class: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Build the content of ``lvis_evaluation.json``.

    Args:
        num_images: number of evaluated images.
        annotations: the data set's.
        metrics: in percent, by task.
        curves: (T, R, K, A) precision by task and mode.
        per_class: further (K,) percents of boxes, by name.

    Returns:
        A dict to be written as JSON,
        ``{"num_images", "tasks": metrics, "categories": [{"id", "name", "frequency",
        "train_images", "train_instances", "bbox": {"AP", "AP_fixed"}, "segm": ...}, ...]}``, all
        AP in percent and NaN where a category has no annotation; counts that are not known are
        None.
    """
    rows = [
        {
            **{key: category[key] for key in ("id", "name", "frequency")},
            "train_images": category["image_count"],
            "train_instances": category["instance_count"],
        }
        for category in annotations.categories
    ]
    for (task, mode), precision in curves.items():
        # A category's precision over all areas is known everywhere or nowhere.
        for row, ap in zip(rows, precision[..., 0].mean(axis=(0, 1)).tolist(), strict=True):
            row.setdefault(task, {})[f"AP{ENDINGS[mode]}"] = 100 * ap
    for name, values in (per_class or {}).items():
        for row, value in zip(rows, values.tolist(), strict=True):
            row.setdefault("bbox", {})[name] = value
    return {
        "num_images": num_images,
        "tasks": {task: dict(values) for task, values in metrics.items()},
        "categories": rows,
    }


def format_decisions(metrics: Mapping[str, float]) -> str:
    """Format the metrics of decisions as a plain-text table, a row for each."""
    names = [name for name in metrics if f"{name} r" in metrics]
    rows = [[name, *(metrics.get(name + end) for end in ("", " r", " c", " f"))] for name in names]
    table = plain_table(rows, ["bbox", "all", "r", "c", "f"], missing="-")
    return f"{table}\n(in percent; F1 and recall at the score {metrics['threshold']:.2f})"


def fingerprint(annotations: LVISAnnotations) -> str:
    """Compute what tells the ground truth from others, see :func:`.test_set_fingerprint`.

    Args:
        annotations: the data set's.
    """
    images = annotations.images
    numbers = np.repeat(np.arange(len(images)), [len(image.category) for image in images])
    categories = np.concatenate([image.category for image in images] or [np.empty(0)])
    boxes = np.concatenate([image.boxes for image in images] or [np.empty((0, 4))])
    rows = np.column_stack([numbers, categories, boxes]).astype(np.float64)
    return test_set_fingerprint(
        [category["name"] for category in annotations.categories],
        np.asarray(annotations.image_ids, np.int64),
        np.array(annotations.sizes, np.int64),
        # A file may have the annotations of an image in any order.
        rows[np.lexsort(rows.T[::-1])],
    )


def write_precision(folder: Path, curves: Mapping[tuple[str, str], np.ndarray]) -> None:
    """Write precision-recall curves, a file for each task and mode, atomically.

    Args:
        folder: made if missing.
        curves: (T, R, K, A) precision by task and mode.
    """
    for (task, mode), precision in curves.items():
        with atomic_write(folder / f"precision_{task}_{mode}.npy", "wb") as file:
            np.save(file, precision)


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
