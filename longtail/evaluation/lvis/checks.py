# SPDX-License-Identifier: Apache-2.0
"""Checks of the predictions that an LVIS evaluation is given.

Shapes: D detections of one image, (H, W) its size.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import Instances

from longtail.evaluation.lvis.annotations import LVISAnnotations


def check_image(
    annotations: LVISAnnotations,
    image: int | None,
    seen: Collection[int],
    size: tuple,
    name: object,
) -> int:
    """Check that an image is one of the annotations', of its size, and new.

    Args:
        annotations: the data set's.
        image: image index; None if it has none.
        seen: image indices that were evaluated.
        size: (H, W) of the predictions.
        name: the image's id, for the message.

    Returns:
        The image index.

    Raises:
        ValueError: it is not.
    """
    if image is None:
        raise ValueError(
            f"image {name!r} is not in {annotations.json_file}; build the evaluator with the name "
            "of the data set that is loaded"
        )
    if image in seen:
        raise ValueError(f"image {name} came twice; call reset() before a new evaluation")
    if tuple(size) != annotations.sizes[image]:
        raise ValueError(
            f"image {name}: predictions for the size (H, W) = {size}, but {annotations.json_file} "
            f"says {annotations.sizes[image]}; the model must give them at the original size"
        )
    return image


def check_classes(classes: np.ndarray, known: int, name: object, dataset_name: str) -> None:
    """Check the (D,) classes of detections.

    Args:
        classes: of the image's detections.
        known: number of classes.
        name: the image's id, for the message.
        dataset_name: likewise.

    Raises:
        ValueError: one is not 0 to ``known`` - 1.
    """
    wrong = classes[(classes < 0) | (classes >= known)]
    if len(wrong):
        raise ValueError(
            f"image {name}: a prediction of class {wrong[0]}, but {dataset_name!r} has the "
            f"classes 0 to {known - 1}; the model must have as many"
        )


def check_has_masks(instances: Instances, wanted: bool, bare: bool, name: object) -> None:
    """Check that all images have masks or none; one without detections may lack them.

    Args:
        instances: the image's detections.
        wanted: masks are asked for, or images before it had some.
        bare: images before it had detections without masks.
        name: the image's id, for the message.

    Raises:
        ValueError: they are missing, or there against expectation.
    """
    has_masks = instances.has("pred_masks")
    if len(instances) and not has_masks and wanted:
        raise ValueError(
            f"image {name}: predictions without pred_masks; evaluate tasks=('bbox',), or a model "
            "with masks"
        )
    if len(instances) and has_masks and bare:
        raise ValueError(f"image {name}: pred_masks, but images before it had none")


def check_mask_size(rles: Sequence[Mapping[str, Any]], size: tuple[int, int], name: object) -> None:
    """Check the size of the first of an image's RLEs; the others have the same.

    Args:
        rles: compressed RLEs.
        size: (H, W).
        name: the image's id, for the message.

    Raises:
        ValueError: it is another.
    """
    if rles and tuple(rles[0]["size"]) != size:
        raise ValueError(f"image {name}: masks of size {rles[0]['size']}, expected {size}")
