# SPDX-License-Identifier: Apache-2.0
"""Predictions that were saved: the files that evaluators write, and folders of label maps.

Shapes: K classes, (H, W) image size.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from longtail.data.datasets.classes import check_same_order
from longtail.data.datasets.files import files_by_stem
from longtail.data.formats.headers import read_header
from longtail.data.formats.images import read_label_map
from longtail.data.formats.lvis_shapes import segmentation_rle
from longtail.evaluation.classification.predictions import FILE_NAME
from longtail.evaluation.lvis.annotations import category_of_class, read_lvis_annotations
from longtail.utils.text import read_text
from longtail.visualization.predictions import Objects, Ranking, Record, objects_of_results
from longtail.visualization.tasks import IMAGES, OBJECTS, SEM_SEG, Task

# From a record of the data set to what is drawn.
Drawn = Callable[[Record], Any]
SHAPE = "segmentation"
# What there is to name, for the messages.
EXPECTED = {
    SEM_SEG: "a folder of label maps, or sem_seg_predictions.json "
    "(TEST.SEM_SEG.WRITE_PREDICTIONS True)",
    OBJECTS: "lvis_instances_results.json or coco_instances_results.json",
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
        if task.kind == SEM_SEG:
            read = (_label_maps if os.path.isdir(path) else _segments)(task, path)
        elif task.kind == OBJECTS:
            read = _results(task, path, records)
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


def _read_json(path: str, kind: str) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is cut short or not JSON ({error}): name {EXPECTED[kind]}"
        ) from None


def _entries(content: object, keys: Mapping[str, type | tuple], path: str, kind: str) -> list[dict]:
    """The entries of a list, which all have these keys with values of these types."""
    if isinstance(content, list):
        for place, entry in enumerate(content):
            entry = entry if isinstance(entry, dict) else {}
            wrong = [key for key, type_ in keys.items() if not isinstance(entry.get(key), type_)]
            if wrong:
                raise ValueError(
                    f"{path}: entry {place} lacks {wrong[0]}, or it is of a wrong type: name "
                    f"{EXPECTED[kind]}"
                )
        return content
    raise ValueError(f"{path} does not hold a list of predictions: name {EXPECTED[kind]}")


def _label_maps(task: Task, folder: str) -> Drawn:
    files = files_by_stem(folder, (".png",))

    def predict(record: Record) -> np.ndarray:
        stem = Path(record["file_name"]).stem
        if stem not in files:
            raise FileNotFoundError(f"{folder} does not have {stem}.png for {record['file_name']}")
        return read_label_map(files[stem])

    return predict


class _ByImage:
    """Values by the file of their image, also if the images were elsewhere."""

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values, self._path = values, path
        self._named = defaultdict(list)
        for file in values:
            self._named[Path(file).name].append(file)

    def __getitem__(self, file: str) -> Any:
        if file in self._values:
            return self._values[file]
        named = self._named[Path(file).name]
        if len(named) == 1:
            return self._values[named[0]]
        many = f" {len(named)} images of this name, and" if named else ""
        raise ValueError(
            f"{self._path} has{many} no prediction for {file}: it is of another data set, or of a "
            "part of this one"
        )


def _segments(task: Task, path: str) -> Drawn:
    keys = {"file_name": str, "category_id": int, SHAPE: dict}
    segments = defaultdict(list)
    for entry in _entries(_read_json(path, SEM_SEG), keys, path, SEM_SEG):
        segments[entry["file_name"]].append(entry)
    by_image = _ByImage(segments, path)
    ids = task.metadata.get("stuff_dataset_id_to_contiguous_id", {})
    num_classes = len(task.class_names)

    def predict(record: Record) -> np.ndarray:
        file = record["file_name"]
        header = read_header(file)
        labels = np.full(header.size, task.ignore_label, np.int64)
        for entry in by_image[file]:
            number = entry["category_id"]
            label = ids.get(number, number)
            if not 0 <= label < num_classes:
                raise ValueError(
                    f"{path} has the class {number}, but {task.dataset_name} has "
                    f"{num_classes}: it is of another data set"
                )
            try:
                rle = segmentation_rle(entry[SHAPE], *header.size)
            except ValueError as error:
                raise ValueError(f"{path}: class {number} of {file} {error}") from None
            labels[mask_util.decode(rle).astype(bool)] = label
        return labels

    return predict


def _results(task: Task, path: str, records: Sequence[Record]) -> Drawn:
    keys = {"image_id": int, "category_id": int, "bbox": list, "score": (int, float)}
    class_of_category = _class_of_category(task)
    images = {record["image_id"]: record for record in records if "image_id" in record}
    results = defaultdict(list)
    for entry in _entries(_read_json(path, OBJECTS), keys, path, OBJECTS):
        image, category = entry["image_id"], entry["category_id"]
        if image not in images:
            raise ValueError(
                f"{path} has the image_id {image}, which {task.dataset_name} does not have: it is "
                "of another data set"
            )
        if category not in class_of_category:
            raise ValueError(
                f"{path} has the category_id {category}, which {task.dataset_name} does not have: "
                "it is of another data set"
            )
        if not _is_box(entry["bbox"]) or not math.isfinite(entry["score"]):
            raise ValueError(
                f"{path}: image_id {image} has the bbox {entry['bbox']!r:.60} and the score "
                f"{entry['score']!r:.20}, expected 4 finite numbers and one"
            )
        results[image].append({**entry, "class": class_of_category[category]})

    def predict(record: Record) -> Objects:
        size = record["height"], record["width"]
        found = []
        for entry in results.get(record["image_id"], []):
            try:
                masks = {key: segmentation_rle(entry[key], *size) for key in entry if key == SHAPE}
            except ValueError as error:
                raise ValueError(f"{path}: image_id {record['image_id']} {error}") from None
            found.append({**entry, **masks})
        return objects_of_results(found, task.min_score)

    return predict


def _is_box(box: list) -> bool:
    return len(box) == 4 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)


def _class_of_category(task: Task) -> dict[int, int]:
    """The class index of each category id, as the data set's evaluator has them."""
    ids = task.metadata.get("thing_dataset_id_to_contiguous_id")
    if ids is not None:
        return dict(ids)
    json_file = task.metadata.get("json_file")
    if json_file is None:
        return {index + 1: index for index in range(len(task.class_names))}
    annotations = read_lvis_annotations(json_file, with_masks=False)
    category = category_of_class(annotations, task.metadata, task.dataset_name)
    ids = annotations.category_ids[category].tolist()
    return {number: index for index, number in enumerate(ids)}


def _rankings(task: Task, path: str) -> Drawn:
    content = _read_json(path, IMAGES)
    if not isinstance(content, dict) or not isinstance(content.get("class_names"), list):
        raise ValueError(f"{path} has no class_names: name {EXPECTED[IMAGES]}")
    remedy = "name the data set that was evaluated (--dataset)"
    check_same_order(content["class_names"], task.class_names, path, task.dataset_name, remedy)
    keys = {"file_name": str, "classes": list, "scores": list}
    entries = _entries(content.get("images"), keys, path, IMAGES)
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
    by_image = _ByImage({entry["file_name"]: entry for entry in entries}, path)

    def predict(record: Record) -> Ranking:
        entry = by_image[record["file_name"]]
        return Ranking(entry["classes"], entry["scores"])

    return predict
