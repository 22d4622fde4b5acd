# SPDX-License-Identifier: Apache-2.0
"""How often the classes of a test set occur in training, which groups and analyses need.

Shapes: K classes.
"""

import logging
from collections.abc import Sequence

from detectron2.data import DatasetCatalog

from longtail.data.datasets.classes import class_order
from longtail.data.statistics.class_stats import get_class_stats

# Name of a column in reports -> name of the count in the class statistics.
TRAINING_COUNTS = {
    "train_pixels": "pixel_count",
    "train_images": "image_count",
    "train_instances": "instance_count",
}
TrainingCounts = dict[str, list[int]]


def training_counts(
    training_sets: Sequence[str], class_names: Sequence[str], dataset_name: str
) -> TrainingCounts:
    """Count the classes of a test set in the training sets.

    Args:
        training_sets: registered names. Every process has to be here, see
            :func:`~longtail.data.statistics.class_stats.get_class_stats`.
        class_names: K names of the test set's classes, in its order.
        dataset_name: the test set's name, for the messages.

    Returns:
        (K,) numbers under those of ``train_pixels``, ``train_images`` (images that contain the
        class) and ``train_instances`` that are known. Empty, and a warning, if the training sets
        are not on this machine.

    Raises:
        ValueError: the training sets have other classes.
    """
    if not training_sets:
        return {}
    absent: Exception | str = ""
    unknown = [name for name in training_sets if name not in DatasetCatalog.list()]
    if unknown:
        absent = f"{unknown[0]} is not registered"
    else:
        try:
            stats = get_class_stats(training_sets)
        except FileNotFoundError as error:
            absent = error
    if absent:
        logging.getLogger(__name__).warning(
            f"{dataset_name}: the classes' frequencies in training are not known, since the "
            f"training set is not here ({absent})"
        )
        return {}
    owner = f"its training set {', '.join(training_sets)}"
    remedy = "register both with the same names"
    order = class_order(stats.class_names, class_names, owner, dataset_name, remedy)
    counts = {}
    for column, name in TRAINING_COUNTS.items():
        if (values := getattr(stats, name)) is not None:
            placed = dict(zip(order, values.tolist(), strict=True))
            counts[column] = [placed[index] for index in range(len(order))]
    return counts
