# SPDX-License-Identifier: Apache-2.0
"""Evaluation of predictions that were saved, by the evaluators that models are tested with.

Shapes: K classes, D detections, (H, W) image size.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from tqdm import tqdm

from longtail.data.datasets.classes import class_names
from longtail.data.statistics.counting import class_metadata, load_records
from longtail.evaluation.build import build_evaluator
from longtail.evaluation.calibration_file import read_calibration
from longtail.evaluation.lvis.detections import EncodedMasks
from longtail.evaluation.saved import (
    LABEL_MAPS,
    RESULTS,
    SHAPE,
    Record,
    label_maps,
    results,
    segments,
)

EXPECTED = {"sem_seg": LABEL_MAPS, "lvis": RESULTS, "coco": RESULTS}
# From a record to what a model gives for it.
Output = Callable[[Record], dict[str, Any]]


def evaluate_saved(
    cfg: CfgNode, dataset_name: str, path: str, output_dir: str, calibration: str = ""
) -> dict[str, dict[str, float]]:
    """Evaluate predictions of a data set.

    Args:
        cfg: read for TEST, as in an evaluation, and DATASETS.TRAIN, whose counts tell groups of
            classes where the data set does not.
        dataset_name: a registered data set, of semantic segmentation or detection.
        path: a folder of label maps that are named as their images, or
            ``sem_seg_predictions.json``; of detections a results file in LVIS's or COCO's format.
        output_dir: where the reports go.
        calibration: file of a :class:`.Calibration` that maps the scores of detections; none if
            empty.

    Returns:
        Metrics by task, as of the evaluator.

    Raises:
        FileNotFoundError: there is nothing at the path, or a label map is missing.
        ValueError: the predictions are damaged or of another data set, or the data set is of
            another type; or the calibration is, or was fitted to this very data set.
    """
    kind = class_metadata(dataset_name).get("evaluator_type")
    if kind not in EXPECTED:
        raise ValueError(
            f"saved predictions of {dataset_name!r} (evaluator_type {kind!r}) cannot be "
            f"evaluated: name a data set of one of {', '.join(EXPECTED)}"
        )
    check_path(kind, path)
    records = load_records(dataset_name)
    names = class_names(dataset_name)
    maps = _calibration(calibration, kind, dataset_name, names)
    output = _output(kind, dataset_name, path, len(names), records)
    evaluator = build_evaluator(cfg, dataset_name, output_dir)
    evaluator.reset()
    for record in tqdm(records, desc="evaluating", unit="image"):
        evaluator.process([record], [maps(output(record))])
    return dict(evaluator.evaluate() or {})


def check_path(kind: str, path: str) -> None:
    """Refuse a path that cannot be predictions of a kind, before anything is read.

    Args:
        kind: ``evaluator_type`` of the data set.
        path: a file or folder.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it is a folder where only a file can be.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"--predictions {path} does not exist; name {EXPECTED[kind]}")
    if os.path.isdir(path) and kind != "sem_seg":
        raise ValueError(f"--predictions {path} is a folder: name {EXPECTED[kind]}")


def _calibration(
    path: str, kind: str, dataset_name: str, names: Sequence[str]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    if not path:
        return lambda output: output
    if kind == "sem_seg":
        raise ValueError(f"--calibration is for detections, {dataset_name} is of label maps")
    calibration = read_calibration(path)
    calibration.check(path, names, [dataset_name])

    def mapped(output: dict[str, Any]) -> dict[str, Any]:
        instances = output["instances"]
        scores = calibration(instances.pred_classes.numpy(), instances.scores.numpy())
        instances.scores = torch.from_numpy(scores).float()
        return output

    return mapped


def _output(
    kind: str, dataset_name: str, path: str, num_classes: int, records: Sequence[Record]
) -> Output:
    metadata = class_metadata(dataset_name)
    if kind != "sem_seg":
        found = results(path, metadata, num_classes, records)
        return _instances(found, path, records)
    ignore_label = metadata.get("ignore_label", 255)
    if os.path.isdir(path):
        read = label_maps(path)
    else:
        read = segments(path, metadata, num_classes, ignore_label)

    def labelled(record: Record) -> dict[str, Any]:
        labels = read(record).astype(np.int64)
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if wrong.size:
            raise ValueError(
                f"{path}: the prediction for {record['file_name']} has the value {wrong[0]}, "
                f"expected a class, 0..{num_classes - 1}, at every pixel"
            )
        return {"sem_seg": torch.from_numpy(labels)}

    return labelled


def _instances(
    found: Callable[[Record], list[Mapping[str, Any]]],
    path: str,
    records: Sequence[Record],
) -> Output:
    """From a record to ``Instances``, with masks if the detections of the file have some."""
    first = next((entries for record in records if (entries := found(record))), [])
    with_masks = bool(first) and SHAPE in first[0]

    def output(record: Record) -> dict[str, Any]:
        entries = found(record)
        size = record["height"], record["width"]
        instances = Instances(size)
        boxes = np.array([item["bbox"] for item in entries], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(torch.from_numpy(boxes).float())
        instances.scores = torch.tensor([float(item["score"]) for item in entries])
        instances.pred_classes = torch.tensor([item["class"] for item in entries]).long()
        if any((SHAPE in item) != with_masks for item in entries):
            raise ValueError(
                f"{path}: some detections have a {SHAPE} and others do not, such as of image_id "
                f"{record['image_id']}: give it to all or none"
            )
        if with_masks:
            instances.pred_masks = EncodedMasks([item[SHAPE] for item in entries])
        return {"instances": instances}

    return output
