# SPDX-License-Identifier: Apache-2.0
"""How often each class occurs in each image: what samplers draw by.

Shapes: N images, K classes.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor

from longtail.data.statistics.class_stats import get_image_classes

# For each of N images: by class (0..K-1) its pixels, its instances, or 1 for the image's label.
Occurrences = Sequence[Mapping[int, int]]


def count_occurrences(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> list[dict[int, int]]:
    """Count the classes of every image.

    Of image classification that is its label, of detection its instances without the crowds, which
    are not trained on, and of semantic segmentation the pixels of its label map: they are counted
    in the pass of the class statistics, and kept like those.

    Args:
        cfg: read for DATASETS.TRAIN, whose label maps are looked up. All processes must be here.
        dataset_dicts: N records in detectron2's format.

    Returns:
        N times the count (> 0) by class; empty for an image without labels.

    Raises:
        ValueError: a label map does not belong to DATASETS.TRAIN; or as
            :func:`.class_stats.get_image_classes`.
        FileNotFoundError: a label map is missing.
    """
    if not any(_is_by_label_map(record) for record in dataset_dicts):
        return [_of_record(record) for record in dataset_dicts]
    pixels = get_image_classes(cfg.DATASETS.TRAIN)
    found = []
    for record in dataset_dicts:
        if not _is_by_label_map(record):
            found.append(_of_record(record))
            continue
        file = os.path.abspath(record["sem_seg_file_name"])
        if file not in pixels:
            raise ValueError(
                f"{file} is not a label map of DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}, whose "
                "classes are counted: name the data set that it belongs to"
            )
        found.append(pixels[file])
    return found


def image_frequency(
    occurrences: Occurrences, num_classes: int, shares: Tensor | None = None
) -> np.ndarray:
    """Compute the part of the images that have a class, (K,) float64: f_c.

    Args:
        occurrences: of N images.
        num_classes: K.
        shares: (N,) the part of the draws that each image has; 1 / N by default. Then it is the
            expected part of the drawn images that have the class.
    """
    frequency = np.zeros(num_classes)
    weights = [1 / len(occurrences)] * len(occurrences) if shares is None else shares.tolist()
    for classes, weight in zip(occurrences, weights, strict=True):
        frequency[list(classes)] += weight
    return frequency


def total_counts(occurrences: Occurrences) -> dict[int, int]:
    """Add the counts of all images up, by class in ascending order; only classes that occur."""
    total: Counter[int] = Counter()
    for classes in occurrences:
        total.update(classes)
    return dict(sorted(total.items()))


def images_by_class(occurrences: Occurrences) -> dict[int, list[int]]:
    """List the ascending indices of the images of every class that occurs, by ascending class."""
    images: dict[int, list[int]] = {category: [] for category in total_counts(occurrences)}
    for index, classes in enumerate(occurrences):
        for category in classes:
            images[category].append(index)
    return images


def _is_by_label_map(record: dict) -> bool:
    return "sem_seg_file_name" in record and "label" not in record and "annotations" not in record


def _of_record(record: dict) -> dict[int, int]:
    if "label" in record:
        return {record["label"]: 1}
    instances = record.get("annotations") or ()
    return dict(Counter(a["category_id"] for a in instances if not a.get("iscrowd", 0)))
