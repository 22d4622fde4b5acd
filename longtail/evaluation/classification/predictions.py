# SPDX-License-Identifier: Apache-2.0
"""The predictions of image classification: the best classes of every image, as a file.

``classification_predictions.json`` holds ``dataset``, ``class_names`` (K) and ``images``, each with
``file_name``, ``image_id``, ``classes`` (indices into the names, the best first) and ``scores``.

Shapes: N images, K classes.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longtail.utils.io import write_json

FILE_NAME = "classification_predictions.json"
# Classes that are kept of an image.
NUM_BEST = 5


def best_classes(scores: Tensor) -> list[tuple[list[int], list[float]]]:
    """The best classes of images; of equal scores the first class, as in the metrics.

    Args:
        scores: (N, K).

    Returns:
        For each image the indices of its ``min(NUM_BEST, K)`` best classes, and their scores.
    """
    values, classes = torch.sort(scores.float(), dim=1, descending=True, stable=True)
    best = classes[:, :NUM_BEST].tolist(), values[:, :NUM_BEST].tolist()
    return list(zip(*best, strict=True))


def best_of_batch(inputs: Sequence[Mapping[str, Any]], scores: Tensor) -> list[dict[str, Any]]:
    """The entries of a batch.

    Args:
        inputs: N dicts with ``image_id`` and ``file_name``.
        scores: (N, K).
    """
    return [
        {
            "file_name": item.get("file_name"),
            "image_id": item["image_id"],
            "classes": classes,
            "scores": values,
        }
        for item, (classes, values) in zip(inputs, best_classes(scores), strict=True)
    ]


def write_predictions(
    folder: str | os.PathLike,
    dataset_name: str,
    class_names: Sequence[str],
    parts: Iterable[Sequence[Mapping[str, Any]]],
) -> None:
    """Write the predictions of all processes, by image.

    Args:
        folder: where :data:`FILE_NAME` goes.
        dataset_name: the registered name.
        class_names: K names.
        parts: entries of :func:`best_of_batch`.
    """
    images = sorted((item for part in parts for item in part), key=lambda item: item["image_id"])
    content = {"dataset": dataset_name, "class_names": list(class_names), "images": images}
    write_json(os.path.join(folder, FILE_NAME), content)
