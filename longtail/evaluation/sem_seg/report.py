"""A confusion matrix as a report: figures in percent, a table, JSON and CSV.

Shapes: K classes. Every IoU, accuracy and share here is in percent, NaN for a class without
ground truth (empty in the CSV, ``null`` in the JSON).
"""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from longtail.evaluation.sem_seg.metrics import grouped_mean, iou_from_confusion
from longtail.utils.io import atomic_write, write_json

CSV_COLUMNS = ("index", "name", "group", "pixel_share", "IoU", "Acc")
_CLASSES_PER_ROW = 3


def build_report(
    confusion: torch.Tensor,
    class_names: Sequence[str],
    class_groups: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """All figures of a confusion matrix.

    Args:
        confusion: (K, K) pixel counts, rows = target, columns = prediction.
        class_names: K names.
        class_groups: class indices by group name; each class is in exactly one group.

    Returns:
        ``{"mIoU", "mAcc", "aAcc", "fwIoU": percent,
        "groups": {group: {"mIoU", "mAcc": percent, "num_classes"}},
        "classes": [{"index", "name", "group", "pixel_share", "IoU", "Acc"}, ...]}``, where
        ``pixel_share`` is the class's share of the evaluated ground truth pixels in percent.
    """
    scores = iou_from_confusion(confusion)
    iou, acc = 100 * scores.iou, 100 * scores.acc
    pixels = confusion.sum(dim=1).to("cpu", torch.float64)
    share = 100 * pixels / pixels.sum()
    group_of = {c: group for group, classes in class_groups.items() for c in classes}
    group_iou, group_acc = grouped_mean(iou, class_groups), grouped_mean(acc, class_groups)
    return {
        "mIoU": 100 * scores.miou,
        "mAcc": 100 * scores.macc,
        "aAcc": 100 * scores.aacc,
        "fwIoU": 100 * scores.fwiou,
        "groups": {
            group: {
                "mIoU": group_iou[group],
                "mAcc": group_acc[group],
                "num_classes": len(classes),
            }
            for group, classes in class_groups.items()
        },
        "classes": [
            dict(zip(CSV_COLUMNS, row, strict=True))
            for row in zip(
                range(len(class_names)),
                class_names,
                (group_of[c] for c in range(len(class_names))),
                share.tolist(),
                iou.tolist(),
                acc.tolist(),
                strict=True,
            )
        ],
    }


def flat_results(report: Mapping[str, Any]) -> dict[str, float]:
    """The report as detectron2 wants it: one flat dict of floats, in percent.

    Returns:
        ``mIoU``, ``mAcc``, ``aAcc``, ``fwIoU``; ``mIoU-<group>`` and ``mAcc-<group>`` of every
        group; ``IoU-<class>`` and ``Acc-<class>`` of every class. detectron2's
        ``print_csv_format`` shows the ones without a hyphen.
    """
    results = {key: report[key] for key in ("mIoU", "mAcc", "aAcc", "fwIoU")}
    for key in ("mIoU", "mAcc"):
        results.update({f"{key}-{name}": group[key] for name, group in report["groups"].items()})
    for key in ("IoU", "Acc"):
        results.update({f"{key}-{row['name']}": row[key] for row in report["classes"]})
    return results


def write_report(report: Mapping[str, Any], folder: str | os.PathLike) -> None:
    """Write ``sem_seg_evaluation.json`` (everything) and ``.csv`` (a row a class) atomically.

    Args:
        report: what :func:`build_report` returned, with any further JSON-encodable entries.
        folder: made if missing.
    """
    folder = Path(folder)
    write_json(folder / "sem_seg_evaluation.json", report)
    with atomic_write(folder / "sem_seg_evaluation.csv") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in report["classes"]:
            writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})


def format_tables(report: Mapping[str, Any]) -> str:
    """The report as two plain-text tables: all classes and groups, then the single classes."""
    summary = [["all", len(report["classes"]), report["mIoU"], report["mAcc"]]]
    for name, group in report["groups"].items():
        summary.append([name, group["num_classes"], group["mIoU"], group["mAcc"]])
    groups = tabulate(
        summary, headers=["classes", "number", "mIoU", "mAcc"], tablefmt="pipe", floatfmt=".2f"
    )

    # Down the columns, then across, so that neighbours in the class list stay neighbours.
    # ADE20K's names list synonyms; the first one keeps the table narrow enough to read.
    rows = [[r["name"].split(",")[0], r["IoU"], r["Acc"]] for r in report["classes"]]
    height = math.ceil(len(rows) / _CLASSES_PER_ROW)
    lines = [sum(rows[start::height], []) for start in range(height)]
    headers = ["class", "IoU", "Acc"] * math.ceil(len(rows) / height)
    classes = tabulate(lines, headers=headers, tablefmt="pipe", floatfmt=".2f")
    return (
        f"{groups}\n\naAcc {report['aAcc']:.2f}, fwIoU {report['fwIoU']:.2f} (all in percent; "
        f"nan: no ground truth)\n\n{classes}"
    )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
