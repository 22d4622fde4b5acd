# SPDX-License-Identifier: Apache-2.0
"""Reading predictions that were saved: the files that evaluators write, folders of label maps.

Shapes: K classes, (H, W) image size.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.catalog import Metadata

from longtail.data.datasets.files import files_by_stem
from longtail.data.formats.headers import read_header
from longtail.data.formats.images import read_label_map
from longtail.data.formats.lvis_shapes import segmentation_rle
from longtail.evaluation.lvis.annotations import category_of_class, read_lvis_annotations
from longtail.utils.text import read_text

Record = Mapping[str, Any]
SHAPE = "segmentation"
# What there is to name, for the messages.
LABEL_MAPS = (
    "a folder of label maps, or sem_seg_predictions.json (TEST.SEM_SEG.WRITE_PREDICTIONS True)"
)
RESULTS = "lvis_instances_results.json or coco_instances_results.json"


def read_json(path: str, expected: str) -> Any:
    """Read a file of JSON.

    Args:
        path: the file.
        expected: what there is to name, for the message.

    Raises:
        ValueError: it is not JSON.
        OSError: it cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is cut short or not JSON ({error}): name {expected}") from None


def checked_entries(
    content: object, keys: Mapping[str, type | tuple], path: str, expected: str
) -> list[dict]:
    """The entries of a list, which all have these keys with values of these types.

    Args:
        content: of the file.
        keys: types by key.
        path: the file, for the message.
        expected: what there is to name, likewise.

    Raises:
        ValueError: it is not such a list.
    """
    if isinstance(content, list):
        for place, entry in enumerate(content):
            entry = entry if isinstance(entry, dict) else {}
            wrong = [key for key, type_ in keys.items() if not isinstance(entry.get(key), type_)]
            if wrong:
                raise ValueError(
                    f"{path}: entry {place} lacks {wrong[0]}, or it is of a wrong type: name "
                    f"{expected}"
                )
        return content
    raise ValueError(f"{path} does not hold a list of predictions: name {expected}")


def label_maps(folder: str) -> Callable[[Record], np.ndarray]:
    """Label maps that are named as their images.

    Args:
        folder: of 8-bit PNGs.

    Returns:
        From a record to (H, W) labels; raises a FileNotFoundError where there is none.

    Raises:
        ValueError: two files have the same name.
    """
    files = files_by_stem(folder, (".png",))

    def predict(record: Record) -> np.ndarray:
        stem = Path(record["file_name"]).stem
        if stem not in files:
            raise FileNotFoundError(f"{folder} does not have {stem}.png for {record['file_name']}")
        return read_label_map(files[stem])

    return predict


class ByImage:
    """Values by the file of their image, also if the images were elsewhere."""

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        """Sort values by the names of files.

        Args:
            values: by the path of the image.
            path: where they are from, for the message.
        """
        self._values, self._path = values, path
        self._named = defaultdict(list)
        for file in values:
            self._named[Path(file).name].append(file)

    def __getitem__(self, file: str) -> Any:
        """The value of an image; raises a ValueError if there is none, or no single one."""
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


def segments(
    path: str, metadata: Metadata, num_classes: int, ignore_label: int
) -> Callable[[Record], np.ndarray]:
    """Label maps from ``sem_seg_predictions.json``.

    Args:
        path: the file.
        metadata: of the data set.
        num_classes: K.
        ignore_label: of pixels without a class.

    Returns:
        From a record to (H, W) labels; raises a ValueError where there are none, or wrong ones.

    Raises:
        ValueError: the file is not one of predictions.
        OSError: it cannot be read.
    """
    keys = {"file_name": str, "category_id": int, SHAPE: dict}
    found = defaultdict(list)
    for entry in checked_entries(read_json(path, LABEL_MAPS), keys, path, LABEL_MAPS):
        found[entry["file_name"]].append(entry)
    by_image = ByImage(found, path)
    ids = metadata.get("stuff_dataset_id_to_contiguous_id", {})

    def predict(record: Record) -> np.ndarray:
        file = record["file_name"]
        header = read_header(file)
        labels = np.full(header.size, ignore_label, np.int64)
        for entry in by_image[file]:
            number = entry["category_id"]
            label = ids.get(number, number)
            if not 0 <= label < num_classes:
                raise ValueError(
                    f"{path} has the class {number}, but {metadata.name} has "
                    f"{num_classes}: it is of another data set"
                )
            try:
                rle = segmentation_rle(entry[SHAPE], *header.size)
            except ValueError as error:
                raise ValueError(f"{path}: class {number} of {file} {error}") from None
            labels[mask_util.decode(rle).astype(bool)] = label
        return labels

    return predict


def results(
    path: str, metadata: Metadata, num_classes: int, records: Sequence[Record]
) -> Callable[[Record], list[dict[str, Any]]]:
    """Detections from a file in LVIS's or COCO's results format.

    Args:
        path: the file.
        metadata: of the data set.
        num_classes: K.
        records: of the data set, all of them.

    Returns:
        From a record to its entries, with ``class`` (0..K-1) and ``segmentation`` as a compressed
        RLE where there is one; raises a ValueError where that is wrong.

    Raises:
        ValueError: the file is not one of predictions, or of another data set.
        OSError: it cannot be read.
    """
    keys = {"image_id": int, "category_id": int, "bbox": list, "score": (int, float)}
    classes = class_of_category(metadata, num_classes)
    images = {record["image_id"]: record for record in records if "image_id" in record}
    by_image = defaultdict(list)
    for entry in checked_entries(read_json(path, RESULTS), keys, path, RESULTS):
        image, category = entry["image_id"], entry["category_id"]
        if image not in images:
            raise ValueError(
                f"{path} has the image_id {image}, which {metadata.name} does not have: it is "
                "of another data set"
            )
        if category not in classes:
            raise ValueError(
                f"{path} has the category_id {category}, which {metadata.name} does not have: "
                "it is of another data set"
            )
        if not _is_box(entry["bbox"]) or not math.isfinite(entry["score"]):
            raise ValueError(
                f"{path}: image_id {image} has the bbox {entry['bbox']!r:.60} and the score "
                f"{entry['score']!r:.20}, expected 4 finite numbers and one"
            )
        by_image[image].append({**entry, "class": classes[category]})

    def predict(record: Record) -> list[dict[str, Any]]:
        size = record["height"], record["width"]
        found = []
        for entry in by_image.get(record["image_id"], []):
            try:
                masks = {key: segmentation_rle(entry[key], *size) for key in entry if key == SHAPE}
            except ValueError as error:
                raise ValueError(f"{path}: image_id {record['image_id']} {error}") from None
            found.append({**entry, **masks})
        return found

    return predict


def _is_box(box: list) -> bool:
    return len(box) == 4 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)


def class_of_category(metadata: Metadata, num_classes: int) -> dict[int, int]:
    """The class index of each category id, as the data set's evaluator has them.

    Args:
        metadata: of the data set.
        num_classes: K.
    """
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    if ids is not None:
        return dict(ids)
    json_file = metadata.get("json_file")
    if json_file is None:
        return {index + 1: index for index in range(num_classes)}
    annotations = read_lvis_annotations(
        json_file, with_masks=False, coco=bool(metadata.get("coco_json"))
    )
    category = category_of_class(annotations, metadata, metadata.name)
    ids = annotations.category_ids[category].tolist()
    return {number: index for index, number in enumerate(ids)}
