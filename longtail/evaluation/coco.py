# SPDX-License-Identifier: Apache-2.0
"""Evaluator for COCO's metrics: pycocotools' own, with the report of the other evaluators.

Shapes: K categories; T = 10 IoU thresholds, R = 101 recalls, A = 4 ranges of areas, as in
:mod:`longtail.evaluation.lvis.metrics`.
"""

import contextlib
import io
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from longtail.data.formats.coco_json import read_coco_json
from longtail.evaluation.base import LongTailEvaluator
from longtail.evaluation.lvis.annotations import category_of_class, read_lvis_annotations
from longtail.evaluation.lvis.detections import encode_masks
from longtail.evaluation.lvis.frequencies import derive_frequencies
from longtail.evaluation.lvis.metrics import in_percent, summarize
from longtail.evaluation.lvis.report import build_report, fingerprint, format_table
from longtail.evaluation.metrics import check_finite
from longtail.utils.io import atomic_write, write_json

logger = logging.getLogger(__name__)
# The standard of COCO, whatever a model may give.
MAX_DETECTIONS = 100


class CocoEvaluator(LongTailEvaluator):
    """COCO's AP of boxes and masks, also for rare, common and frequent categories.

    pycocotools computes it. Files are completed where they lack what it needs, see
    :func:`~longtail.data.formats.coco_json.read_coco_json`. Metrics without any annotation are NaN,
    not -1, and those of a model that finds nothing are 0.
    """

    # Reports have the same columns, and the same name.
    task = "lvis"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        training_sets: Sequence[str] = (),
    ) -> None:
        """Read the annotations of the data set.

        Args:
            dataset_name: a registered data set whose metadata has ``json_file``, in COCO's format.
            output_dir: where ``lvis_evaluation.json`` and ``coco_instances_results.json`` go.
            training_sets: registered data sets whose images tell rare, common and frequent
                categories. Every process has to be here.

        Raises:
            ValueError: the data set is not registered or has no ``json_file``, or bad annotations.
            FileNotFoundError: the annotations are missing.
        """
        super().__init__(dataset_name, output_dir)
        json_file = self.needed_metadata("json_file", "annotations")
        self._content = read_coco_json(json_file)
        self.annotations = read_lvis_annotations(json_file, coco=True)
        derive_frequencies(self.annotations, training_sets, dataset_name)
        category = category_of_class(self.annotations, self._metadata, dataset_name)
        self._id_of_class = self.annotations.category_ids[category]
        self._images = set(self.annotations.image_ids.tolist())
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        self._results: list[dict[str, Any]] = []
        self._seen: list[int] = []
        self._with_masks = False

    @torch.no_grad()
    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Instances]]
    ) -> None:
        """Keep the detections of a batch.

        Args:
            inputs: dicts whose ``image_id`` is one of the annotations.
            outputs: dicts whose ``instances`` have ``pred_boxes``, ``scores``, ``pred_classes``
                and, if masks are evaluated, ``pred_masks`` (D, H, W) at the image's original
                size, or as ``ROIMasks`` or :class:`.EncodedMasks`.

        Raises:
            ValueError: an image or class that the data set does not have, or scores or boxes that
                are not finite.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id, instances = record["image_id"], output["instances"]
            if image_id not in self._images:
                raise ValueError(
                    f"image {image_id!r} is not in {self.annotations.json_file}; build the "
                    "evaluator with the name of the data set that is loaded"
                )
            check_finite(instances.scores, f"image {image_id}: scores")
            check_finite(instances.pred_boxes.tensor, f"image {image_id}: boxes")
            classes = instances.pred_classes
            if len(classes) and not 0 <= classes.min() <= classes.max() < len(self._id_of_class):
                raise ValueError(
                    f"image {image_id}: a prediction of class {classes.max()}, but "
                    f"{self._dataset_name!r} has the classes 0 to {len(self._id_of_class) - 1}; "
                    "the model must have as many"
                )
            for item in _entries(instances, image_id):
                item["category_id"] = int(self._id_of_class[item["category_id"]])
                self._results.append(item)
            self._with_masks |= instances.has("pred_masks")
            self._seen.append(image_id)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Compute, log and write the metrics over all images of the annotations.

        Returns:
            Metrics by task,
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"},
            "segm": ...}`` in percent. Empty for a test set without annotations. None in all
            processes but the main one.

        Raises:
            ValueError: no image was processed, or one twice.
        """
        parts = self.gather((self._results, self._seen, self._with_masks))
        if parts is None:
            return None
        results = [item for part, _, _ in parts for item in part]
        seen = [image for _, images, _ in parts for image in images]
        if not seen or len(set(seen)) != len(seen):
            wrong = "some images were evaluated twice" if seen else "no image was evaluated"
            raise ValueError(f"{self._dataset_name}: {wrong}; check the loader")
        if self._output_dir:
            with atomic_write(self._output_dir / "coco_instances_results.json") as file:
                json.dump(results, file, separators=(",", ":"))
        if not self.annotations.has_annotations:
            logger.info(f"{self._dataset_name} has no annotations: there are no metrics")
            return OrderedDict()
        tasks = ("bbox", "segm") if any(masks for _, _, masks in parts) else ("bbox",)
        curves = {(task, "standard"): self._precision(task, results) for task in tasks}
        groups = self.annotations.frequency_groups()
        metrics = OrderedDict(
            (task, in_percent(summarize(curve, groups))) for (task, _), curve in curves.items()
        )
        if self._output_dir:
            report = build_report(len(seen), self.annotations, metrics, curves)
            # Of the same annotations, LVIS's metrics are others: they are not to be compared.
            mark = f"coco-{fingerprint(self.annotations)}"
            report = self.recorded(mark, {**report, "metrics": "coco"})
            write_json(self._output_dir / "lvis_evaluation.json", report)
        logger.info(
            f"{self._dataset_name}, {len(seen)} images, COCO's metrics by pycocotools:\n"
            f"{format_table(metrics)}"
        )
        return metrics

    def _precision(self, task: str, results: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(T, R, K, A) precision, NaN where a category has no annotation of that size."""
        # pycocotools prints, and changes what it is given.
        with contextlib.redirect_stdout(io.StringIO()):
            truth = _index(self._content.images, self._content.categories, self._annotated(task))
            found = [dict(item) for item in results]
            evaluation = COCOeval(truth, _detections(truth, found, task), task)
            evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][..., -1].copy()
        precision[precision == -1] = np.nan
        return precision

    def _annotated(self, task: str) -> list[dict[str, Any]]:
        items = self._content.annotations or []
        return [dict(i) for i in items if task == "bbox" or i.get("segmentation")]


def _entries(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Detections in COCO's format of results, as detectron2 writes them."""
    fields = {name: instances.get(name) for name in ("pred_boxes", "scores", "pred_classes")}
    entries = instances_to_coco_json(Instances(instances.image_size, **fields).to("cpu"), image_id)
    if instances.has("pred_masks"):
        rles = encode_masks(instances, np.arange(len(instances)))
        for entry, rle in zip(entries, rles, strict=True):
            entry["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
    return entries


def _index(images: Sequence, categories: Sequence, annotations: Sequence) -> COCO:
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": list(images),
        "categories": list(categories),
        "annotations": list(annotations),
    }
    coco.createIndex()
    return coco


def _detections(truth: COCO, results: list[dict[str, Any]], task: str) -> COCO:
    if not results:
        return _index(truth.dataset["images"], truth.dataset["categories"], [])
    if task == "segm":
        # Otherwise the area of the box would tell small from large masks.
        for item in results:
            item.pop("bbox", None)
    return truth.loadRes(results)
