# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation metrics as pure functions.

Shapes: K classes, (H, W) image size. A confusion matrix is (K, K) with the target (ground truth)
class as row and the predicted class as column, counted in pixels.
"""

import math
from typing import NamedTuple

import torch

from longtail.evaluation.metrics import check_finite

# `largest_logits` on a CPU: planes in a group, and the number of classes from which on its two
# passes gain more than they cost (both measured; sqrt(K) planes would balance the passes).
_GROUP_PLANES = 15
_MIN_CLASSES_FOR_TWO_PASSES = 64

_INTEGER_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class SegmentationScores(NamedTuple):
    """Scores of a confusion matrix; every value is a fraction in 0..1 or NaN."""

    iou: torch.Tensor
    """(K,) float64: intersection over union of each class."""
    acc: torch.Tensor
    """(K,) float64: share of the class's ground truth pixels that were predicted as it (recall)."""
    miou: float
    """Mean of ``iou`` over the classes with ground truth."""
    macc: float
    """Mean of ``acc`` over the classes with ground truth."""
    aacc: float
    """Share of all pixels that were predicted right."""
    fwiou: float
    """Mean of ``iou`` weighted by the ground truth pixels of each class."""


def largest_logits(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the largest logit at every pixel and its class; of several equal ones the first.

    Equal to ``logits.max(dim=0)`` in every value (also for NaN, which counts as largest), but
    2 to 3 times faster for 150 classes on a CPU: max over the outermost dimension strides over
    whole planes. Here a first pass takes the maximum of groups of planes, which reads memory in
    order, and a second one looks only into the group that won at the pixel.

    Args:
        logits: (K, H, W) scores of any floating type.

    Returns:
        (H, W) of the type of ``logits``, and (H, W) int64, values 0..K-1, both on its device.
    """
    num_classes = len(logits)
    if logits.is_cuda or not logits.is_contiguous() or num_classes < _MIN_CLASSES_FOR_TWO_PASSES:
        values, classes = logits.max(dim=0)
        return values, classes
    grouped = num_classes - num_classes % _GROUP_PLANES
    groups = logits[:grouped].unflatten(0, (-1, _GROUP_PLANES))  # (groups, planes, H, W)
    best, group = groups.amax(dim=1).max(dim=0)
    planes = groups.gather(0, group.expand(1, _GROUP_PLANES, -1, -1))[0]  # (planes, H, W)
    classes = group * _GROUP_PLANES + planes.max(dim=0).indices
    if grouped == num_classes:
        return best, classes
    rest_best, rest = logits[grouped:].max(dim=0)
    is_first = (rest_best <= best) | best.isnan()
    return torch.where(is_first, best, rest_best), torch.where(is_first, classes, rest + grouped)


def as_class_map(output: torch.Tensor, image: str) -> torch.Tensor:
    """The class of every pixel, whether a model gives logits or has chosen already.

    Args:
        output: (K, H, W) logits, or (H, W) integers 0..K-1.
        image: its name, for the message.

    Returns:
        (H, W) integers.

    Raises:
        ValueError: a logit is NaN, or the largest one of a pixel infinite.
    """
    if output.dim() == 2 and output.dtype in _INTEGER_TYPES:
        return output
    largest, classes = largest_logits(output)
    # NaN counts as largest: one plane tells about all of them.
    check_finite(largest, f"{image}: logits")
    return classes


def confusion_matrix(
    prediction: torch.Tensor,
    target: torch.Tensor,
    num_classes: int,
    ignore_label: int = 255,
) -> torch.Tensor:
    """Count the pixels of every pair of ground truth class and predicted class.

    Args:
        prediction: integer tensor of any shape, values 0..K-1 wherever the target is not ignored.
        target: integer tensor of the same shape on the same device, values 0..K-1 or
            ``ignore_label``.
        num_classes: K.
        ignore_label: pixels with this target are left out.

    Returns:
        (K, K) int64 on the device of the inputs: entry (t, p) is the number of pixels of target
        class t that were predicted as p.

    Raises:
        ValueError: the shapes differ, a tensor is not of an integer type, or a value is out of
            range.
    """
    _check_label_tensors(prediction, target)
    ignored = target == ignore_label
    target = target.masked_fill(ignored, 0).long()
    remedy = f"relabel the ground truth or set it to {ignore_label}"
    _check_range("target", target, num_classes, remedy)
    prediction = prediction.long()
    if not _is_in_range(prediction, num_classes):
        prediction = prediction.masked_fill(ignored, 0)
        remedy = "the model must predict the data set's classes"
        _check_range("prediction", prediction, num_classes, remedy)
    # Ignored pixels are counted as one more pair: to leave them out would copy all others.
    pair = (target * num_classes).add_(prediction).masked_fill_(ignored, num_classes**2)
    counts = torch.bincount(pair.flatten(), minlength=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes)


def iou_from_confusion(confusion: torch.Tensor) -> SegmentationScores:
    r"""Compute intersection over union and accuracies of a confusion matrix.

    With n[t, p] the matrix,

    .. math::

        \mathrm{iou}_c &= \frac{n_{cc}}{\sum_p n_{cp} + \sum_t n_{tc} - n_{cc}} \\
        \mathrm{acc}_c &= \frac{n_{cc}}{\sum_p n_{cp}} \\
        \mathrm{aacc} &= \frac{\sum_c n_{cc}}{\sum_{t,p} n_{tp}} \\
        \mathrm{fwiou} &= \frac{\sum_c \mathrm{iou}_c \sum_p n_{cp}}{\sum_{t,p} n_{tp}}

    A class without a ground truth pixel is NaN in ``iou`` and ``acc`` and left out of all means,
    also if it was predicted somewhere; those false pixels still lower the IoU of the classes that
    they were taken from. This is the convention of detectron2's current main. detectron2 0.6
    divides the sum by the number of classes that occur in ground truth *or* prediction; the two
    agree where every predicted class has ground truth, as on every full validation set.

    Args:
        confusion: (K, K) counts, rows = target, columns = prediction.

    Returns:
        The scores as fractions, on the CPU; all NaN if the matrix is all zero.

    Raises:
        ValueError: the matrix is not square.
    """
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(
            f"iou_from_confusion: expected a square (K, K) matrix, got {tuple(confusion.shape)}"
        )
    confusion = confusion.to("cpu", torch.float64)
    hits = confusion.diagonal()
    of_target = confusion.sum(dim=1)
    union = of_target + confusion.sum(dim=0) - hits
    nan = torch.full_like(hits, math.nan)
    has_target = of_target > 0
    iou = torch.where(has_target, hits / union, nan)
    acc = torch.where(has_target, hits / of_target, nan)
    share = of_target / of_target.sum()
    return SegmentationScores(
        iou=iou,
        acc=acc,
        miou=iou.nanmean().item(),
        macc=acc.nanmean().item(),
        aacc=(hits.sum() / of_target.sum()).item(),
        # nansum of nothing is 0, which would pass for a result
        fwiou=(iou * share).nansum().item() if has_target.any() else math.nan,
    )


def _check_label_tensors(prediction: torch.Tensor, target: torch.Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            "confusion_matrix: prediction and target must have the same shape, got "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}; "
            "resize the prediction to the ground truth"
        )
    for name, labels in (("prediction", prediction), ("target", target)):
        if labels.dtype not in _INTEGER_TYPES:
            raise ValueError(
                f"confusion_matrix: {name} must hold integer class indices, got {labels.dtype}; "
                "take the argmax of logits first"
            )


def _is_in_range(labels: torch.Tensor, num_classes: int) -> bool:
    if labels.numel() == 0:
        return True
    lowest, highest = torch.stack(labels.aminmax()).tolist()
    return lowest >= 0 and highest < num_classes


def _check_range(name: str, labels: torch.Tensor, num_classes: int, remedy: str) -> None:
    if not _is_in_range(labels, num_classes):
        lowest, highest = (extreme.item() for extreme in labels.aminmax())
        raise ValueError(
            f"confusion_matrix: {name} has the value {lowest if lowest < 0 else highest}, expected "
            f"0..{num_classes - 1}; {remedy}"
        )
