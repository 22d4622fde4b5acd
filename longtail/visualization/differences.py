# SPDX-License-Identifier: Apache-2.0
"""Where runs disagree: pixels, objects, best classes; for highlights and for ranking images.

Shapes: N objects, (H, W) image size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou

from longtail.visualization.predictions import Objects, Ranking

# Of two boxes of one object.
IOU = 0.5


def disagreement(
    maps: Sequence[np.ndarray], target: np.ndarray | None = None, ignore_label: int = 255
) -> np.ndarray:
    """The pixels that label maps do not all give the same class.

    Args:
        maps: label maps (H, W) of one image, at least one.
        target: its ground truth (H, W), if there is one; where it is ignored, nobody disagrees.
        ignore_label: the ignored label.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: they have different sizes.
    """
    sizes = {each.shape for each in (*maps, *([] if target is None else [target]))}
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(
            f"label maps of one image have the sizes {shown} (width x height): give all of them "
            "the image's size"
        )
    differs = np.zeros(maps[0].shape, bool)
    for labels in maps[1:]:
        differs |= labels != maps[0]
    return differs if target is None else differs & (target != ignore_label)


def disagreement_share(
    maps: Sequence[np.ndarray], target: np.ndarray | None = None, ignore_label: int = 255
) -> float:
    """The share of the pixels of :func:`disagreement` among those that are not ignored, 0..1."""
    counted = maps[0].size if target is None else np.count_nonzero(target != ignore_label)
    differing = np.count_nonzero(disagreement(maps, target, ignore_label))
    return differing / counted if counted else 0.0


def matched(objects: Objects, others: Objects) -> np.ndarray:
    """The objects that have a partner of the same class, with an IoU of their boxes of 0.5 or more.

    The best score chooses first, and chooses the largest IoU; a partner is chosen once.

    Args:
        objects: N objects.
        others: those that partners are taken from.

    Returns:
        (N,) bool.
    """
    found = np.zeros(len(objects), bool)
    if not len(objects) or not len(others):
        return found
    boxes = (Boxes(torch.from_numpy(each.boxes)) for each in (objects, others))
    iou = pairwise_iou(*boxes).numpy()
    iou[objects.classes[:, None] != others.classes] = 0
    for index in range(len(objects)):
        partner = iou[index].argmax()
        if iou[index, partner] >= IOU:
            found[index] = True
            iou[:, partner] = 0
    return found


def unmatched(columns: Sequence[Objects]) -> list[np.ndarray]:
    """The objects of each column that some other column does not have, as (N,) bool."""
    return [
        ~np.logical_and.reduce(
            [
                np.ones(len(own), bool),
                *(matched(own, other) for other in columns if other is not own),
            ]
        )
        for own in columns
    ]


def top1_differs(rankings: Sequence[Ranking]) -> bool:
    """Whether the best classes are not all the same."""
    return len({ranking.classes[0] for ranking in rankings}) > 1


def top1_difference(rankings: Sequence[Ranking]) -> float:
    """How sure runs are of different classes: 0 where the best ones are the same.

    Otherwise the mean of the scores of the best classes, so that two that are sure of different
    classes differ more than two that are not.
    """
    scores = [ranking.scores[0] for ranking in rankings]
    return float(np.mean(scores)) if top1_differs(rankings) else 0.0
