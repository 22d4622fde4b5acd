# SPDX-License-Identifier: Apache-2.0
"""The losses as configs build them, against their definitions; see method_parity.py.

Shape alphabet:
    S: images, valid pixels or RoIs
    K: classes (foreground classes in detection)
    D: outputs of the classifier
"""

from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from timm.loss import compute_class_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from benchmarks.parity import EXACT, FLOAT32, TRANSCRIPTION, Comparison, differences, largest
from longtail.config import get_cfg
from longtail.data.statistics.class_stats import ClassStats
from longtail.losses import BOXES, EVERYWHERE, IMAGES, PIXELS, LossTask, build_loss, loss_names
from tests.references import losses as references

NUM_IMAGES = 100_000
# By the number of classes: samples of a batch, and the training images of each class.
SIZES = {
    7: (40, np.array([100_000, 900, 178, 177, 30, 1, 1])),
    1203: (24, np.maximum(1, (1e5 * np.arange(1, 1204.0) ** -1.6).astype(np.int64))),
}
# Their class weights, priors or margins are kept in float32.
IN_FLOAT32 = {
    *("reweighted_cross_entropy", "class_balanced", "ldam_drw", "balanced_softmax"),
    *("balanced_softmax_pixel_prior", "balanced_softmax_region_prior"),
}
# What is compared with a package: all of a loss, or its class weights.
PEERS = {
    ("focal", BOXES): "torchvision",
    ("reweighted_cross_entropy", IMAGES): "timm",
    ("class_balanced", IMAGES): "timm",
}
IGNORE = 255
# Of S logits, labels, and whether the last fifth of the training has begun.
Definition = Callable[[Tensor, Tensor, bool], Tensor]


def class_stats(K: int) -> ClassStats:
    """Counts of K classes, of pixels and instances not proportional to those of images."""
    images = SIZES[K][1]
    return ClassStats(
        class_names=tuple(f"class {k}" for k in range(K)),
        num_images=NUM_IMAGES,
        pixel_count=37 * images + np.arange(K) % 5 * 1000,
        image_count=images,
        instance_count=2 * images + np.arange(K) % 3,
    )


class SeenSeesaw:
    """Seesaw's definition with the samples counted so far."""

    def __init__(self, K: int, task: LossTask) -> None:
        """Start with none."""
        self.seen, self.task = [0] * (K + task.background), task

    def __call__(self, z: Tensor, y: Tensor, late: bool) -> Tensor:
        """Count, then compute."""
        for label in y.tolist():
            self.seen[label] += 1
        if self.task is BOXES:
            return references.seesaw_detector(z, y, self.seen[:-1])
        return references.seesaw(z, y, self.seen) / len(y)


def ldam(z: Tensor, y: Tensor, counts: np.ndarray, weight: list[float], late: bool) -> Tensor:
    """LDAM of logits 30 cos, with the weights from their time on; background has no margin."""
    margin = np.zeros(z.shape[1])
    margin[: len(counts)] = 30 * references.margins(counts, 0.5)
    lowered = references.lowered(z, y, margin)
    return references.balanced_cross_entropy(lowered, y, weight if late else None)


def torchvision_focal(z: Tensor, y: Tensor) -> Tensor:
    """RetinaNet's, over the objects."""
    K = z.shape[1] - 1
    targets = F.one_hot(y, K + 1)[:, :K].double()
    total = sigmoid_focal_loss(z[:, :K], targets, alpha=0.25, gamma=2.0, reduction="sum")
    return total / max(1, int((y < K).sum()))


def definition(name: str, task: LossTask, stats: ClassStats) -> Definition:
    """The definition of a loss with the default keys.

    Raises:
        KeyError: none is written down.
    """
    K, background = len(stats.class_names), 1.0 if task.background else None
    counts, images = getattr(stats, task.statistic), stats.image_count
    effective = references.effective_number(images if task is PIXELS else counts, 0.9999)
    weight = references.mean_one(effective, background)
    balanced = references.balanced_cross_entropy
    frequency, v2 = images / NUM_IMAGES, references.EqualizationV2(K, background=task.background)

    def prior(n: np.ndarray) -> Definition:
        return lambda z, y, late: balanced(z, y, prior=references.mean_one(n, background))

    inverse = references.mean_one(references.inverse_frequency(counts, 1.0), background)
    bins, rare = ([10, 100, 1000], 8.0), frequency < 1.77e-3
    if task is IMAGES:
        inverse, weight = (
            compute_class_weights(images, NUM_IMAGES, method, beta=0.9999)[1].tolist()
            for method in ("inv_freq", "effective_num")
        )
    known: dict[str, Definition] = {
        "cross_entropy": lambda z, y, late: balanced(z, y),
        "reweighted_cross_entropy": lambda z, y, late: balanced(z, y, inverse),
        "class_balanced": lambda z, y, late: balanced(z, y, weight),
        "balanced_softmax": prior(counts),
        "balanced_softmax_pixel_prior": prior(stats.pixel_count),
        "balanced_softmax_region_prior": prior(images),
        "focal": lambda z, y, late: (
            torchvision_focal(z, y) if task is BOXES else references.softmax_focal(z, y)
        ),
        "ldam_drw": lambda z, y, late: ldam(z, y, counts, weight, late),
        "seesaw": SeenSeesaw(K, task),
        "eql": lambda z, y, late: (
            references.sigmoid_equalization(z, y, rare)
            if task is BOXES
            else references.softmax_equalization(z, y, rare, 0.95)
        ),
        "eqlv2": lambda z, y, late: v2(z, y),
        "bags": lambda z, y, late: references.group_softmax(z, y, counts, *bins),
        "federated": lambda z, y, late: references.federated(
            z, y, 50, torch.from_numpy(images**0.5)
        ),
        "dice": lambda z, y, late: references.dice(*as_maps(z, y), IGNORE),
        "dice_cross_entropy": lambda z, y, late: (
            references.dice(*as_maps(z, y), IGNORE) + balanced(z, y)
        ),
    }
    return known[name]


def as_maps(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(S, K) and (S,) to maps of two images, of whose pixels every third has no label."""
    number = len(y) + len(y) // 2
    valid = torch.arange(number) % 3 != 2
    logits = z.new_zeros(number, z.shape[1]).index_put((valid,), z)
    labels = y.new_full((number,), IGNORE * 100).index_put((valid,), y)
    labels = labels.where(valid, IGNORE)
    return logits.view(2, -1, 6, z.shape[1]).permute(0, 3, 1, 2), labels.view(2, -1, 6)


def batches(K: int, columns: int, task: LossTask) -> Iterator[tuple[Tensor, Tensor]]:
    """Three batches of (S, D) logits and (S,) labels that no ignored label is among."""
    count = SIZES[K][0]
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(count, columns, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, K + task.background, (count,), generator=generator)
        yield logits, labels.where(labels != IGNORE, 0)


def built(name: str, task: LossTask, K: int) -> nn.Module:
    """A loss as a config builds it that names it and nothing else."""
    cfg = get_cfg()
    cfg.merge_from_list([task.loss_key, name, task.classes_key, K])
    cfg.DATASETS.TRAIN = ("any",)
    with mock.patch("longtail.losses.build.get_class_stats", return_value=class_stats(K)):
        return build_loss(cfg, task)


def compare_loss(
    name: str, task: LossTask, K: int, other: Definition | None = None
) -> Iterator[tuple[float, float]]:
    """Differences of three batches, the last one late in a training.

    Args:
        name: of the loss.
        task: of the loss.
        K: of SIZES.
        other: what it is compared with; by default its definition.
    """
    loss, last = built(name, task, K), get_cfg().SOLVER.MAX_ITER - 1
    other = other or definition(name, task, class_stats(K))
    columns = K if task is PIXELS else loss.num_logits
    for number, (logits, labels) in enumerate(batches(K, columns, task)):
        late = number == 2

        def own(z: Tensor, labels: Tensor = labels) -> Tensor:
            return loss(*as_maps(z, labels)) if task is PIXELS else loss(z, labels)

        def expected(z: Tensor, labels: Tensor = labels, late: bool = late) -> Tensor:
            return other(z, labels, late)

        with EventStorage(last if late else 0):
            yield differences(own, expected, logits)


def compare_losses(sizes: Sequence[int] = tuple(SIZES)) -> Iterator[Comparison]:
    """Every registered loss on every task that it is defined for.

    Args:
        sizes: numbers of classes, of SIZES.
    """
    for task in EVERYWHERE:
        for name in loss_names(task):
            value, gradient = largest(pair for K in sizes for pair in compare_loss(name, task, K))
            against = PEERS.get((name, task), TRANSCRIPTION)
            bound = FLOAT32 if name in IN_FLOAT32 else EXACT
            yield Comparison(
                "loss", name, task.samples, against, value, gradient, *bound, tuple(sizes)
            )
