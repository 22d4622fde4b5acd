# SPDX-License-Identifier: Apache-2.0
"""Saved predictions with their scores, and whether each of them is right.

Shapes: N predictions, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data.catalog import Metadata

from longtail.data.statistics.counting import class_metadata, load_records
from longtail.evaluation.classification.predictions import FILE_NAME
from longtail.evaluation.lvis.annotations import category_of_class, read_lvis_annotations
from longtail.evaluation.lvis.detections import match_detections, select_detections
from longtail.evaluation.lvis.matches import unpack_bits
from longtail.evaluation.saved import RESULTS, Record, checked_entries, read_json, results

# TEST.DETECTIONS_PER_IMAGE of LVIS, whose standard metric has this limit.
MOST_DETECTIONS = 300
TASK = "bbox"
EXPECTED = {"classification": FILE_NAME, "lvis": RESULTS, "coco": RESULTS}


@dataclass(frozen=True)
class Judged:
    """Predictions that are right or wrong.

    Attributes:
        class_names: K names, in the order of the class indices.
        images: (N,) int64, indices of the records.
        classes: (N,) int64, the predicted class, 0..K-1.
        scores: (N,) float64 in [0, 1].
        hits: (N,) bool, whether it is right.
    """

    class_names: tuple[str, ...]
    images: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.scores)

    def __getitem__(self, chosen: np.ndarray) -> "Judged":
        """Select predictions by a (N,) bool mask."""
        columns = (self.images, self.classes, self.scores, self.hits)
        return Judged(self.class_names, *(column[chosen] for column in columns))


def judge_saved(dataset_name: str, path: str) -> Judged:
    """Judge predictions that were saved.

    In image classification a prediction is the best class of an image with its score. In detection
    it is a box, right where it takes an annotation of its class with an IoU of 0.5 or more, by
    LVIS's matching: the best first, up to 300 an image. What LVIS's rules count as neither right
    nor wrong is left out: detections of classes that the image was not checked for, or was not
    exhaustively annotated with.

    Args:
        dataset_name: a registered data set of image classification or detection.
        path: ``classification_predictions.json``; of detections a results file in LVIS's or COCO's
            format.

    Raises:
        ValueError: the data set is of another type, the file is damaged or of another data set, a
            score is no probability, or nothing can be judged.
        OSError: the file, or the data set, cannot be read.
    """
    metadata = class_metadata(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in EXPECTED:
        raise ValueError(
            f"the predictions of {dataset_name!r} (evaluator_type {kind!r}) are saved without "
            f"scores: name a data set of one of {', '.join(EXPECTED)}"
        )
    records = load_records(dataset_name)
    names = tuple(metadata.thing_classes)
    if kind == "classification":
        columns = _best_classes(dataset_name, path, names, records)
    else:
        columns = _boxes(dataset_name, path, metadata, len(names), records)
    if not columns:
        raise ValueError(
            f"{path} has no prediction that the annotations of {dataset_name} can judge"
        )
    images, classes, scores, hits = (np.array(column) for column in zip(*columns, strict=True))
    if not np.all((scores >= 0) & (scores <= 1)):
        wrong = scores[(scores < 0) | (scores > 1)][0]
        raise ValueError(f"{path} has the score {wrong:g}, expected probabilities, 0..1")
    return Judged(names, images, classes, scores.astype(np.float64), hits.astype(bool))


def _best_classes(
    dataset_name: str, path: str, names: tuple[str, ...], records: Sequence[Record]
) -> list[tuple]:
    content = read_json(path, FILE_NAME)
    content = content if isinstance(content, dict) else {}
    if tuple(content.get("class_names", ())) != names:
        raise ValueError(
            f"{path} is not of the classes of {dataset_name}: name the {FILE_NAME} of an "
            "evaluation on it, with TEST.CLASSIFICATION.WRITE_PREDICTIONS True"
        )
    keys = {"image_id": (int, str), "classes": list, "scores": list}
    entries = checked_entries(content.get("images"), keys, path, FILE_NAME)
    place = {record["image_id"]: index for index, record in enumerate(records)}
    found = []
    for entry in entries:
        image, classes, scores = entry["image_id"], entry["classes"], entry["scores"]
        if image not in place or not classes or len(classes) != len(scores):
            raise ValueError(
                f"{path}: image_id {image!r} is not one of {dataset_name}, or it has no classes "
                "with as many scores"
            )
        index = place[image]
        right = classes[0] == records[index]["label"]
        found.append((index, int(classes[0]), float(scores[0]), right))
    return found


def _boxes(
    dataset_name: str, path: str, metadata: Metadata, num_classes: int, records: Sequence[Record]
) -> list[tuple]:
    annotations = read_lvis_annotations(
        metadata.json_file, with_masks=False, coco=bool(metadata.get("coco_json"))
    )
    category = category_of_class(annotations, metadata, dataset_name)
    class_of = {int(number): index for index, number in enumerate(category)}
    place = {int(number): index for index, number in enumerate(annotations.image_ids)}
    read = results(path, metadata, num_classes, records)
    found = []
    for index, record in enumerate(records):
        entries = read(record)
        if not entries:
            continue
        detections = select_detections(
            annotations,
            place[record["image_id"]],
            category[[entry["class"] for entry in entries]],
            np.array([entry["score"] for entry in entries], np.float64),
            np.array([entry["bbox"] for entry in entries], np.float64),
            MOST_DETECTIONS,
        )
        matches = match_detections(annotations, detections, None, False)
        # Of all areas, at an IoU of 0.5.
        right, wrong = (
            unpack_bits(bits[TASK])[0] for bits in (matches.true_positive, matches.false_positive)
        )
        for item in np.flatnonzero(right | wrong):
            of_class = class_of[int(matches.category[item])]
            found.append((index, of_class, float(matches.score[item]), bool(right[item])))
    return found
