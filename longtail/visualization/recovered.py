# SPDX-License-Identifier: Apache-2.0
"""The images on which one prediction has more pixels of some classes right than another.

Shapes: (H, W) image size, N images.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from longtail.visualization.layout import enlarged, enlargement
from longtail.visualization.predictions import Record
from longtail.visualization.saved import Drawn
from longtail.visualization.tasks import Task

# The shorter side of an image in a picture, at least.
_SIDE = 220


def recovered_pixels(
    target: np.ndarray, before: np.ndarray, after: np.ndarray, classes: Collection[int]
) -> int:
    """Count how many more pixels of some classes are right after than before.

    Args:
        target: (H, W) classes.
        before: (H, W) predicted ones.
        after: (H, W) predicted ones.
        classes: of the ground truth that count.
    """
    counted = np.isin(target, list(classes))
    right = [int(((labels == target) & counted).sum()) for labels in (before, after)]
    return right[1] - right[0]


def by_recovered(
    records: Sequence[Record],
    task: Task,
    before: Drawn,
    after: Drawn,
    classes: Collection[int],
) -> list[tuple[int, Record]]:
    """Sort the images of a segmentation set by :func:`recovered_pixels`.

    Args:
        records: N, with ground truth.
        task: of their data set.
        before: from a record to its (H, W) prediction.
        after: likewise.
        classes: of the ground truth that count.

    Returns:
        Pixels and record of each image, most pixels first; equal ones as in ``records``.
    """
    found = [(recovered_pixels(task.read(r)[1], before(r), after(r), classes), r) for r in records]
    return sorted(found, key=lambda pair: -pair[0])


def enlarged_picture(
    record: Record, task: Task, predictors: dict[str, Callable[[Record], np.ndarray]]
) -> np.ndarray:
    """Draw image, ground truth and predictions side by side; small images are enlarged.

    Args:
        record: with ground truth.
        task: of its data set.
        predictors: from a record to its (H, W) prediction, by the name of the column.

    Returns:
        (height, width, 3) uint8.
    """
    image, target = task.read(record)
    times = enlargement(image, _SIDE)
    maps = {name: enlarged(predict(record), times) for name, predict in predictors.items()}
    return task.picture(enlarged(image, times), enlarged(target, times), maps)
