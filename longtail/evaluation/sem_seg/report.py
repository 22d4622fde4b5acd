# SPDX-License-Identifier: Apache-2.0
"""A confusion matrix as a report: metrics in percent, and their tables.

Shapes: K classes. Every IoU, accuracy and share here is in percent, NaN for a class without
ground truth.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch

from longtail.evaluation.report import (
    Report,
    ReportLayout,
    class_rows,
    group_entries,
    group_of_classes,
    group_table,
    plain_table,
)
from longtail.evaluation.sem_seg.metrics import iou_from_confusion

LAYOUT = ReportLayout(
    file_name="sem_seg_evaluation",
    overall=("mIoU", "mAcc", "aAcc", "fwIoU"),
    of_groups=("mIoU", "mAcc"),
    of_classes=("IoU", "Acc"),
)
_CLASSES_PER_ROW = 3


def build_report(
    confusion: torch.Tensor,
    class_names: Sequence[str],
    class_groups: Mapping[str, Sequence[int]],
    train_counts: Mapping[str, Sequence[int]],
) -> Report:
    """Compute all metrics of a confusion matrix.

    Args:
        confusion: (K, K) pixel counts, rows = target, columns = prediction.
        class_names: K names.
        class_groups: class indices by group name; each class is in exactly one group.
        train_counts: (K,) counts of :func:`~longtail.evaluation.training_counts.training_counts`,
            empty if they are not known.

    Returns:
        A dict to be written as JSON,
        ``{"mIoU", "mAcc", "aAcc", "fwIoU": percent,
        "groups": {group: {"mIoU", "mAcc": percent, "num_classes"}},
        "classes": [{"index", "name", "group", "train_pixels", "train_images", "train_instances",
        "train_share", "test_pixels", "IoU", "Acc"}, ...]}``, where ``train_share`` is the class's
        share of the training pixels in percent. Counts that are not known are left out.
    """
    scores = iou_from_confusion(confusion)
    iou, acc = 100 * scores.iou, 100 * scores.acc
    pixels = confusion.sum(dim=1)
    columns = {
        "index": range(len(class_names)),
        "name": class_names,
        "group": group_of_classes(class_groups, len(class_names)),
        **train_counts,
        **_share(train_counts.get("train_pixels")),
        "test_pixels": pixels.tolist(),
        "IoU": iou.tolist(),
        "Acc": acc.tolist(),
    }
    return {
        "mIoU": 100 * scores.miou,
        "mAcc": 100 * scores.macc,
        "aAcc": 100 * scores.aacc,
        "fwIoU": 100 * scores.fwiou,
        "groups": group_entries({"mIoU": iou, "mAcc": acc}, class_groups),
        "classes": class_rows(columns),
    }


def _share(pixels: Sequence[int] | None) -> dict[str, list[float]]:
    if pixels is None:
        return {}
    total = sum(pixels)
    return {"train_share": [100 * number / total for number in pixels]}


def format_tables(report: Report) -> str:
    """Format a report as two plain-text tables: all classes and groups, then the single classes.

    Args:
        report: of :func:`build_report`.
    """
    # Down the columns, then across, so that neighbours in the class list stay neighbours.
    # ADE20K's names list synonyms; the first one keeps the table narrow enough to read.
    cells = [[r["name"].split(",")[0], r["IoU"], r["Acc"]] for r in report["classes"]]
    height = math.ceil(len(cells) / _CLASSES_PER_ROW)
    rows = [list(itertools.chain.from_iterable(cells[start::height])) for start in range(height)]
    classes = plain_table(rows, ["class", "IoU", "Acc"] * math.ceil(len(cells) / height))
    return (
        f"{group_table(report, LAYOUT)}\n\naAcc {report['aAcc']:.2f}, fwIoU "
        f"{report['fwIoU']:.2f} (all in percent; nan: no ground truth)\n\n{classes}"
    )
