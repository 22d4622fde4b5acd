# SPDX-License-Identifier: Apache-2.0
"""Ranks of the right classes as a report: metrics in percent, and their table.

Shapes: N images, K classes. Every accuracy is in percent, NaN where there is no image.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from longtail.evaluation.classification.metrics import class_accuracy, top_k_accuracy
from longtail.evaluation.report import (
    Report,
    ReportLayout,
    class_rows,
    group_entries,
    group_of_classes,
    group_table,
)

LAYOUT = ReportLayout(
    file_name="classification_evaluation",
    overall=("top1", "top5", "mean_acc"),
    of_groups=("mean_acc",),
    of_classes=("acc",),
)


def build_report(
    ranks: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    train_counts: Mapping[str, Sequence[int]],
    groups: Mapping[str, Sequence[int]],
) -> Report:
    """Compute all metrics of a set of images.

    Args:
        ranks: (N,) of :func:`~longtail.evaluation.classification.metrics.label_ranks`, N > 0.
        labels: (N,) integers, 0..K-1.
        class_names: K names.
        train_counts: (K,) counts of :func:`~longtail.evaluation.training_counts.training_counts`,
            empty if they are not known.
        groups: class indices by group name, each class in at most one; empty for no groups.

    Returns:
        A dict to be written as JSON,
        ``{"num_images": N, "top1", "top5": over all images, "mean_acc": the mean over the classes
        with images, "groups": {group: {"mean_acc", "num_classes"}}, "classes": [{"index", "name",
        "group", "train_images", "test_images", "acc"}, ...]}``. With fewer than 5 classes top5
        is 100. Counts that are not known are left out.
    """
    num_classes = len(class_names)
    acc = class_accuracy(ranks, labels, num_classes)
    columns = {
        "index": range(num_classes),
        "name": class_names,
        "group": group_of_classes(groups, num_classes),
        **train_counts,
        "test_images": torch.bincount(labels, minlength=num_classes).tolist(),
        "acc": acc.tolist(),
    }
    return {
        "num_images": len(ranks),
        "top1": top_k_accuracy(ranks, 1),
        "top5": top_k_accuracy(ranks, 5),
        "mean_acc": acc.nanmean().item(),
        "groups": group_entries({"mean_acc": acc}, groups),
        "classes": class_rows(columns),
    }


def format_table(report: Report) -> str:
    """Format a report as a plain-text table of all classes and of the groups.

    Args:
        report: of :func:`build_report`.
    """
    return (
        f"{group_table(report, LAYOUT)}\n\ntop1 {report['top1']:.2f}, top5 {report['top5']:.2f} "
        "(all in percent; nan: no test image)"
    )
