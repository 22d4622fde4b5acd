# SPDX-License-Identifier: Apache-2.0
"""An image, its label map and predicted ones side by side.

Shapes: K classes, (H, W) image size. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from longtail.evaluation.sem_seg.metrics import confusion_matrix, iou_from_confusion
from longtail.visualization.differences import disagreement
from longtail.visualization.layout import Column, side_by_side
from longtail.visualization.painting import Color, fade, paint

_BLACK = (0, 0, 0)


def score_note(
    prediction: np.ndarray, target: np.ndarray, num_classes: int, ignore_label: int = 255
) -> str:
    """Write pixel accuracy and mIoU of one image as a caption.

    The mean is over the classes in the image's ground truth, see
    :func:`~longtail.evaluation.sem_seg.metrics.iou_from_confusion`.

    Args:
        prediction: (H, W) integers, values 0..K-1; ``ignore_label`` is counted as a wrong class.
        target: (H, W) integers, values 0..K-1 or ``ignore_label``.
        num_classes: K.
        ignore_label: pixels with this target are left out.

    Returns:
        Such as ``"acc 91.3 %, mIoU 60.2 %"``.

    Raises:
        ValueError: the shapes differ or a value is out of range.
    """
    none = num_classes  # one class more, which no target has
    prediction = np.where(prediction == ignore_label, none, prediction.astype(np.int64))
    scores = iou_from_confusion(
        confusion_matrix(
            torch.from_numpy(prediction),
            torch.from_numpy(target.astype(np.int64)),
            num_classes + 1,
            ignore_label,
        )
    )
    if np.isnan(scores.aacc):
        return "no labelled pixel"
    return f"acc {100 * scores.aacc:.1f} %, mIoU {100 * scores.miou:.1f} %"


def comparison(
    image: np.ndarray,
    target: np.ndarray | None,
    predictions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[Color],
    ignore_label: int = 255,
    *,
    highlight: bool = False,
) -> np.ndarray:
    """Draw image, ground truth and predictions side by side, with scores and a legend.

    Args:
        image: (H, W, 3) uint8, red, green, blue.
        target: (H, W) integers, values 0..K-1 or ``ignore_label``; without it, there is neither
            its column nor a score.
        predictions: label maps of the same kind by the name of their column.
        class_names: K names.
        colors: K colours.
        ignore_label: the label that stands for no class.
        highlight: whether predictions are faded where they all agree, or the target is ignored.

    Returns:
        (height, width, 3) uint8. The legend lists the classes of all label maps, the ones with
        most pixels first, and at the end the ignored pixels, if any.

    Raises:
        ValueError: neither a target nor a prediction, a label is out of range, or a label map is
            not of the image's size.
    """
    truth = {} if target is None else {"ground truth": target}
    if not truth and not predictions:
        raise ValueError("comparison needs a target or one or more predictions")
    columns = [Column("image", image)]
    for name, labels in [*truth.items(), *predictions.items()]:
        try:
            columns.append(Column(name, paint(image, labels, colors, ignore_label)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    first = len(columns) - len(predictions)
    if target is not None:
        for index, labels in enumerate(predictions.values(), first):
            note = score_note(labels, target, len(colors), ignore_label)
            columns[index] = columns[index]._replace(note=note)
    if highlight:
        region = disagreement(list(predictions.values()), target, ignore_label)
        columns[first:] = [c._replace(image=fade(c.image, region)) for c in columns[first:]]
    maps = np.stack([*truth.values(), *predictions.values()])
    pixels = np.bincount(maps[maps != ignore_label], minlength=len(colors))
    present = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]
    legend = [(class_names[k], colors[k]) for k in present]
    if (maps == ignore_label).any():
        legend.append(("(ignored)", _BLACK))
    return side_by_side(columns, legend)
