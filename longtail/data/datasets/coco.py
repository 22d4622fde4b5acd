# SPDX-License-Identifier: Apache-2.0
"""Registration of a data set in COCO's JSON format that has nothing of LVIS in it."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from longtail.data.datasets.lvis import load_lvis_json
from longtail.data.datasets.register import PathLike, replace_registration
from longtail.data.statistics.groups import LVIS_BOUNDS, FrequencyBounds

METRICS = ("coco", "lvis")


def register_coco_json(
    name: str,
    json_file: PathLike,
    image_root: PathLike,
    *,
    classes: Sequence[str] | None = None,
    metrics: str = "coco",
    training_set: str | None = None,
    bounds: FrequencyBounds = LVIS_BOUNDS,
) -> None:
    """Register a data set in COCO's JSON format.

    Nothing is read before the data set is first used. A data set of the same name is replaced.
    Categories are found by their names: their ids, and their order, may be any. The records are
    those of :func:`~longtail.data.datasets.lvis.load_lvis_json`; segmentations may be missing.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        json_file: the annotations.
        image_root: the folder that the images' ``file_name`` are relative to.
        classes: K names in the model's order; by default the file's, in the order of their ids.
        metrics: ``"coco"``, COCO's AP as pycocotools defines it, or ``"lvis"``, LVIS's, for which
            every image counts as exhaustively annotated, but for the categories of its crowds.
            Both are also given for rare, common and frequent classes.
        training_set: the registered set whose images tell rare from frequent classes; by default
            those of ``DATASETS.TRAIN``.
        bounds: of rare and common classes.

    Raises:
        ValueError: other metrics. Using the data set raises ``FileNotFoundError`` for missing files
            and images, and ``ValueError`` for bad annotations or categories that are not the
            classes.
    """
    if metrics not in METRICS:
        raise ValueError(f"{name}: metrics must be one of {', '.join(METRICS)}, got {metrics!r}")
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    metadata: dict[str, Any] = {
        "json_file": json_file,
        "image_root": image_root,
        "evaluator_type": metrics,
        "coco_json": True,
        "frequency_bounds": tuple(bounds),
    }
    if training_set is not None:
        metadata["training_set"] = training_set
    if classes is not None:
        metadata["thing_classes"] = list(classes)
    options = {"by_file_name": True, "find_images": True}
    replace_registration(
        name, partial(load_lvis_json, json_file, image_root, name, **options), metadata
    )
