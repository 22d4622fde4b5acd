"""Metrics of image classification as pure functions.

Shapes: N images, K classes. Every accuracy in a report is in percent, NaN where there is no image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longtail.evaluation.sem_seg.metrics import grouped_mean

CSV_COLUMNS = ("index", "name", "train_images", "test_images", "acc", "group")


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """At which place the right class stands among all classes, 0 for the first.

    Of classes with equal scores the one of the lower index stands first: top-1 is then what
    ``argmax`` names, and no tie is decided in favor of the right class.

    Args:
        scores: (N, K), the higher the better; infinities are allowed.
        labels: (N,) integers, 0..K-1.

    Returns:
        (N,) int64, 0..K-1. An image is right in the sense of top-k where its rank is below k.

    Raises:
        ValueError: a score is NaN.
    """
    if scores.isnan().any():
        raise ValueError("a score is NaN, so that classes have no order: the model has diverged")
    own = scores.gather(1, labels[:, None])
    lower_index = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & lower_index)).sum(dim=1)


def build_report(
    ranks: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    train_images: Sequence[int] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """All figures of a set of images.

    Args:
        ranks: (N,) of :func:`label_ranks`, N > 0.
        labels: (N,) integers, 0..K-1.
        class_names: K names.
        train_images: (K,) training images of each class, None if they are not known.
        groups: class indices by group name, each class in at most one; None for no groups.

    Returns:
        ``{"num_images": N, "top1", "top5": over all images, "mean_acc": the mean over the classes
        with images, "groups": {group: {"mean_acc", "num_classes"}}, "classes": [{"index", "name",
        "train_images", "test_images", "acc", "group"}, ...]}``. With fewer than 5 classes top5
        is 100.
    """
    num_classes = len(class_names)
    test_images = torch.bincount(labels, minlength=num_classes)
    hits = torch.bincount(labels[ranks < 1], minlength=num_classes)
    acc = 100 * hits.double() / test_images
    groups = groups or {}
    group_of = {c: group for group, classes in groups.items() for c in classes}
    rows = zip(
        range(num_classes),
        class_names,
        [None] * num_classes if train_images is None else [int(n) for n in train_images],
        test_images.tolist(),
        acc.tolist(),
        [group_of.get(c) for c in range(num_classes)],
        strict=True,
    )
    return {
        "num_images": len(ranks),
        "top1": 100 * (ranks < 1).double().mean().item(),
        "top5": 100 * (ranks < 5).double().mean().item(),
        "mean_acc": acc.nanmean().item(),
        "groups": {
            group: {"mean_acc": mean, "num_classes": len(groups[group])}
            for group, mean in grouped_mean(acc, groups).items()
        },
        "classes": [dict(zip(CSV_COLUMNS, row, strict=True)) for row in rows],
    }


def flat_results(report: Mapping[str, Any]) -> dict[str, float]:
    """The report as detectron2 wants it: one flat dict of floats, in percent.

    Returns:
        ``top1``, ``top5``, ``mean_acc``, ``mean_acc-<group>`` of every group and ``acc-<class>``
        of every class; of classes with the same name the last one's.
    """
    return {
        **{key: report[key] for key in ("top1", "top5", "mean_acc")},
        **{f"mean_acc-{name}": group["mean_acc"] for name, group in report["groups"].items()},
        **{f"acc-{row['name']}": row["acc"] for row in report["classes"]},
    }
