# SPDX-License-Identifier: Apache-2.0
"""Predictions that were saved: the files that evaluators write, and folders of label maps.

Shapes: K classes, (H, W) image size.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from longtail.data.datasets.classes import check_same_order
from longtail.evaluation.classification.predictions import FILE_NAME
from longtail.evaluation.saved import (
    LABEL_MAPS,
    RESULTS,
    ByImage,
    checked_entries,
    label_maps,
    read_json,
    results,
    segments,
)
from longtail.visualization.predictions import Ranking, Record, objects_of_results
from longtail.visualization.tasks import IMAGES, OBJECTS, SEM_SEG, Task

# From a record of the data set to what is drawn.
Drawn = Callable[[Record], Any]
# What there is to name, for the messages.
EXPECTED = {
    SEM_SEG: LABEL_MAPS,
    OBJECTS: RESULTS,
    IMAGES: f"{FILE_NAME} (TEST.CLASSIFICATION.WRITE_PREDICTIONS True)",
}


def check_saved(kind: str, name: str, path: str) -> None:
    """Refuse a path that cannot be predictions of a kind, before anything is read.

    Args:
        kind: of the data set, see :func:`~.tasks.task_kind`.
        name: of the column.
        path: a file or folder.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it is a folder where only a file can be.
    """
    if not os.path.exists(path):
        what = "folder" if kind == SEM_SEG and not path.endswith(".json") else "file"
        raise FileNotFoundError(
            f"--predictions {name}: the {what} {path} does not exist; name {EXPECTED[kind]}"
        )
    if os.path.isdir(path) and kind != SEM_SEG:
        raise ValueError(f"--predictions {name}: {path} is a folder: name {EXPECTED[kind]}")


def saved_predictor(task: Task, name: str, path: str, records: Sequence[Record]) -> Drawn:
    """Read saved predictions.

    Args:
        task: of the data set.
        name: of the column, for messages.
        path: what :func:`check_saved` accepts.
        records: of the data set, all of them.

    Returns:
        From a record to its prediction.

    Raises:
        ValueError: the file is not one of predictions, or of another data set. So may the result.
        OSError: it cannot be read.
    """
    try:
        number = len(task.class_names)
        if task.kind == OBJECTS:
            found = results(path, task.metadata, number, records)

            def read(record: Record) -> Any:
                return objects_of_results(found(record), task.min_score)

        elif task.kind == SEM_SEG and os.path.isdir(path):
            read = label_maps(path)
        elif task.kind == SEM_SEG:
            read = segments(path, task.metadata, number, task.ignore_label)
        else:
            read = _rankings(task, path)
    except ValueError as error:
        raise ValueError(f"--predictions {name}: {error}") from None

    def predict(record: Record) -> Any:
        try:
            return read(record)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"--predictions {name}: {error}") from None

    return predict


def _rankings(task: Task, path: str) -> Drawn:
    content = read_json(path, EXPECTED[IMAGES])
    if not isinstance(content, dict) or not isinstance(content.get("class_names"), list):
        raise ValueError(f"{path} has no class_names: name {EXPECTED[IMAGES]}")
    remedy = "name the data set that was evaluated (--dataset)"
    check_same_order(content["class_names"], task.class_names, path, task.dataset_name, remedy)
    keys = {"file_name": str, "classes": list, "scores": list}
    entries = checked_entries(content.get("images"), keys, path, EXPECTED[IMAGES])
    num_classes = len(task.class_names)
    for entry in entries:
        classes, scores = entry["classes"], entry["scores"]
        known = classes and all(isinstance(k, int) and 0 <= k < num_classes for k in classes)
        numbers = all(isinstance(v, (int, float)) and math.isfinite(v) for v in scores)
        if not known or not numbers or len(classes) != len(scores):
            raise ValueError(
                f"{path}: {entry['file_name']} has the classes {classes!r:.60} and the scores "
                f"{scores!r:.60}, expected classes 0..{num_classes - 1} and as many finite numbers"
            )
    by_image = ByImage({entry["file_name"]: entry for entry in entries}, path)

    def predict(record: Record) -> Ranking:
        entry = by_image[record["file_name"]]
        return Ranking(entry["classes"], entry["scores"])

    return predict
