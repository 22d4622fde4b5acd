"""The figures of an LVIS evaluation, as a table and as a file.

Shapes: K categories; T, R, A and Matches as in :mod:`longtail.evaluation.lvis.metrics`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from longtail.evaluation.lvis.annotations import LVISAnnotations
from longtail.evaluation.lvis.metrics import (
    Matches,
    category_precision,
    count_ground_truth,
    in_category_limit,
    in_percent,
    mean,
    pooled_precision,
    sort_matches,
    summarize,
)

MODES = ("standard", "fixed", "pool")
ENDINGS = {"standard": "", "fixed": "_fixed"}


def compute_figures(
    matches: Matches, annotations: LVISAnnotations, tasks: Sequence[str], modes: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[tuple[str, str], np.ndarray]]:
    """All metrics of the matched detections.

    Args:
        matches: of the whole set, in any order of the images.
        annotations: what they were matched with.
        tasks: ``"bbox"``, ``"segm"``.
        modes: of :data:`MODES`.

    Returns:
        By task the figures in percent (``"AP"``, ..., ``"AP_fixed"``, ..., ``"AP_pool"``); by
        task and mode (``"standard"``, ``"fixed"``) the (T, R, K, A) precision.
    """
    matches = sort_matches(matches)
    groups = annotations.frequency_groups()
    num_gt = count_ground_truth(annotations.images, len(annotations.categories))
    chosen = {
        "standard": matches.in_image_limit,
        "fixed": in_category_limit(matches),
    }
    figures: dict[str, dict[str, float]] = {task: {} for task in tasks}
    curves = {}
    for task in tasks:
        for mode in (mode for mode in ENDINGS if mode in modes):
            curves[task, mode] = category_precision(matches, task, num_gt, chosen[mode])
            summary = summarize(curves[task, mode], groups)
            figures[task] |= in_percent(summary, ENDINGS[mode])
        if "pool" in modes:
            pools = {"": np.arange(len(num_gt)), **groups}
            pooled = {
                f"AP{name}": mean(pooled_precision(matches, task, num_gt, chosen["fixed"], pool))
                for name, pool in pools.items()
            }
            figures[task] |= in_percent(pooled, "_pool")
    return figures, curves


def build_report(
    dataset_name: str,
    num_images: int,
    annotations: LVISAnnotations,
    figures: Mapping[str, Mapping[str, float]],
    curves: Mapping[tuple[str, str], np.ndarray],
) -> dict[str, Any]:
    """What ``lvis_evaluation.json`` holds.

    Args:
        dataset_name: the registered name.
        num_images: that were evaluated.
        annotations: the data set's.
        figures, curves: of :func:`compute_figures`.

    Returns:
        ``{"dataset", "num_images", "tasks": figures, "categories": [{"id", "name", "frequency",
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
        "tasks": {task: dict(values) for task, values in figures.items()},
        "categories": rows,
    }


def format_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as a plain-text table, a row for each task and mode."""
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
    rows = []
    for task, values in figures.items():
        for mode, ending in (*ENDINGS.items(), ("pool", "_pool")):
            if f"AP{ending}" in values:
                rows.append([f"{task} {mode}", *(values.get(f"{n}{ending}") for n in names)])
    table = tabulate(rows, headers=["", *names], tablefmt="pipe", floatfmt=".2f", missingval="-")
    return f"{table}\n(in percent; nan: no annotation)"
