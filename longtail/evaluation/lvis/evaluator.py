# SPDX-License-Identifier: Apache-2.0
"""Evaluator for LVIS: detectron2's interface around the pure functions.

Shapes: D detections of one image, (H, W) its size, K categories.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from longtail.evaluation.base import LongTailEvaluator
from longtail.evaluation.lvis.annotations import (
    LVISAnnotations,
    category_of_class,
    read_lvis_annotations,
)
from longtail.evaluation.lvis.checks import (
    check_classes,
    check_has_masks,
    check_image,
    check_mask_size,
)
from longtail.evaluation.lvis.decisions import decision_metrics, image_decisions
from longtail.evaluation.lvis.detections import (
    Detections,
    encode_masks,
    is_matched,
    match_detections,
    results_line,
    select_detections,
)
from longtail.evaluation.lvis.frequencies import derive_frequencies
from longtail.evaluation.lvis.gathering import Seen, join_seen, write_results
from longtail.evaluation.lvis.matches import Matches, join_matches, prune_matches
from longtail.evaluation.lvis.precision import MODES, compute_metrics
from longtail.evaluation.lvis.report import (
    build_report,
    fingerprint,
    format_decisions,
    format_table,
    write_precision,
)
from longtail.evaluation.metrics import check_finite
from longtail.utils.io import write_json

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm")
# Detections that are gathered between two prunings, some 100 MB.
PRUNE_EVERY = 3_000_000


class LVISEvaluator(LongTailEvaluator):
    """LVIS's AP of boxes and masks: lvis-api's metrics, in a fraction of its time and memory.

    Detections are matched while the model runs, and only where an image has an annotation of
    their category; of a detection some 30 bytes are kept. What the federated rules can never
    count is dropped before its mask is encoded; and none is pasted if the model is wrapped in
    :class:`~longtail.evaluation.lvis.inference.UnpastedInference`.

    The modes are ``"standard"``: the best detections of each image, the metric of LVIS;
    ``"fixed"``: no limit an image, but the best 10,000 of each category over the whole set;
    ``"pool"``: the same detections ranked together over categories (AP_fixed and AP_pool of
    "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details"). The last two
    are of use with a model that gives many detections (``TEST.DETECTIONS_PER_IMAGE``).

    Two differences from lvis-api are on purpose: metrics without any annotation are NaN, not -1;
    and an annotation whose id is 0 can be found.
    """

    task = "lvis"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        modes: Sequence[str] = ("standard",),
        keep_all_detections: bool = False,
        max_dets_per_image: int = 300,
        tasks: Sequence[str] | None = None,
        training_sets: Sequence[str] = (),
        write_precision: bool = False,
        decisions: bool = False,
    ) -> None:
        """Read the annotations of the data set.

        Args:
            dataset_name: a registered data set whose metadata has ``json_file``, annotations in
                LVIS's format, or with ``coco_json`` in COCO's. Class indices are
                ``thing_dataset_id_to_contiguous_id``'s; without it the categories in the order of
                their ids.
            output_dir: where ``lvis_evaluation.json`` and ``lvis_instances_results.json`` (the
                detections up to the limit an image, in LVIS's format) go; nothing is written
                without it.
            modes: of ``"standard"``, ``"fixed"``, ``"pool"``.
            keep_all_detections: also write detections that count for nothing here, as an
                evaluation server wants them. The metrics are the same.
            max_dets_per_image: the limit of the standard metric and of the results file.
            tasks: of ``"bbox"``, ``"segm"``; by default masks are evaluated if there are any.
            training_sets: registered data sets whose images tell rare, common and frequent
                categories where the file does not. Every process has to be here, see
                :func:`~longtail.data.statistics.class_stats.get_class_stats`.
            write_precision: also write what :meth:`precision_recall` gives, as
                ``precision_<task>_<mode>.npy``.
            decisions: also compute the metrics of
                :mod:`longtail.evaluation.lvis.decisions`, of boxes.

        Raises:
            ValueError: the data set is not registered or has no ``json_file``, its file or the
                class indices are wrong, a mode or task is unknown, or decisions are wanted
                without boxes.
            FileNotFoundError: the annotations are missing.
        """
        for name, given, known in (("modes", modes, MODES), ("tasks", tasks or TASKS, TASKS)):
            if isinstance(given, str) or not given or set(given) - set(known):
                raise ValueError(f"LVISEvaluator: {name} must be of {known}, got {given!r}")
        if max_dets_per_image < 1:
            raise ValueError(
                f"LVISEvaluator: max_dets_per_image must be positive, got {max_dets_per_image}"
            )
        if decisions and tasks and "bbox" not in tasks:
            raise ValueError(
                f"LVISEvaluator: decisions are of boxes, add 'bbox' to tasks, got {tasks!r}"
            )
        super().__init__(dataset_name, output_dir)
        self._modes = tuple(modes)
        self._unlimited = not set(modes) <= {"standard"}
        self._keep_all = keep_all_detections
        self._limit = max_dets_per_image
        self._tasks = tuple(tasks) if tasks else None
        self.annotations: LVISAnnotations = read_lvis_annotations(
            self.needed_metadata("json_file", "annotations"),
            with_masks=self._tasks is None or "segm" in self._tasks,
            coco=bool(self._metadata.get("coco_json")),
        )
        derive_frequencies(self.annotations, training_sets, dataset_name)
        self._image_index = {int(i): n for n, i in enumerate(self.annotations.image_ids)}
        self._category_of_class = category_of_class(self.annotations, self._metadata, dataset_name)
        self._curves: dict[tuple[str, str], np.ndarray] = {}
        self._write_precision = write_precision
        self._decisions = decisions
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        self._seen = Seen()
        self._seen_images: set[int] = set()
        self._unpruned = 0

    @torch.no_grad()
    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Instances]]
    ) -> None:
        """Match the detections of a batch.

        Args:
            inputs: dicts whose ``image_id`` is one of the annotations.
            outputs: dicts whose ``instances`` have ``pred_boxes``, ``scores``, ``pred_classes``
                and, if masks are evaluated, ``pred_masks`` (D, H, W) at the image's original
                size or as ``ROIMasks``.

        Raises:
            ValueError: an image or class that the data set does not have, an image twice, scores
                or boxes that are not finite, sizes that do not fit, or masks for some images only.
        """
        for record, output in zip(inputs, outputs, strict=True):
            self._process_image(record["image_id"], output["instances"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Compute, log and write the metrics over all images of the annotations.

        An image that was not processed counts as one without detections.

        Returns:
            Metrics by task,
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"},
            "segm": ...}`` in percent, NaN where nothing is annotated; in mode ``fixed`` each also
            with the ending ``_fixed``; in mode ``pool`` ``AP_pool``, ``APr_pool``, ``APc_pool``,
            ``APf_pool``; ``"bbox"`` with the metrics of decisions as well, where they are wanted.
            Empty for a test set without annotations. None in all processes but the main one.

        Raises:
            ValueError: no image was processed.
            ValueError: an image was processed by two processes.
        """
        parts = self.gather(self._seen if self.is_alone else self._seen.packed())
        if parts is None:
            return None
        seen = join_seen(parts)
        if not seen.images:
            raise ValueError(
                f"{self._dataset_name}: no image was evaluated; check that the loader yields any"
            )
        if len(set(seen.images)) != len(seen.images):
            raise ValueError(f"{self._dataset_name}: processes evaluated some images twice")
        missing = len(self._image_index) - len(seen.images)
        if missing:
            logger.warning(
                f"{self._dataset_name}: {missing} of {len(self._image_index)} images were not "
                "processed; they count as images without detections"
            )
        if self._output_dir:
            write_results(self._output_dir / "lvis_instances_results.json", seen.lines)
        if not self.annotations.has_annotations:
            logger.info(f"{self._dataset_name} has no annotations: there are no metrics")
            return OrderedDict()
        tasks = self._tasks or (TASKS if seen.with_masks else ("bbox",))
        matches = join_matches(seen.matches, tasks)
        metrics, self._curves = compute_metrics(matches, self.annotations, tasks, self._modes)
        per_class = {}
        text = format_table(metrics)
        if self._decisions:
            of_boxes, per_class = decision_metrics(matches, seen.decisions, self.annotations)
            metrics["bbox"] |= of_boxes
            text += f"\n{format_decisions(of_boxes)}"
        if self._output_dir:
            report = build_report(
                len(seen.images), self.annotations, metrics, self._curves, per_class
            )
            report = self.recorded(fingerprint(self.annotations), report)
            write_json(self._output_dir / "lvis_evaluation.json", report)
            if self._write_precision:
                write_precision(self._output_dir, self._curves)
        logger.info(f"{self._dataset_name}, {len(seen.images)} images:\n{text}")
        return OrderedDict((task, metrics[task]) for task in sorted(tasks))

    def precision_recall(self, task: str, mode: str = "standard") -> np.ndarray:
        """Give the precision-recall curves of the last :meth:`evaluate`, in the main process.

        Args:
            task: ``"bbox"`` or ``"segm"``.
            mode: ``"standard"`` or ``"fixed"``.

        Returns:
            (10, 101, K, 4) precision in [0, 1] at IoU 0.5, 0.55, ..., 0.95, at recall 0, 0.01,
            ..., 1, for the categories in the order of their ids, over all, small, medium and
            large areas. NaN for a category without annotation of that size.

        Raises:
            ValueError: that task or mode was not evaluated.
        """
        if (task, mode) not in self._curves:
            raise ValueError(
                f"LVISEvaluator: no curves of task {task!r} in mode {mode!r}; "
                f"evaluated were {sorted(self._curves) or 'none'}"
            )
        return self._curves[task, mode]

    def _process_image(self, image_id: int, instances: Instances) -> None:
        image = self._image_index.get(image_id)
        image = check_image(
            self.annotations, image, self._seen_images, instances.image_size, image_id
        )
        classes = instances.pred_classes.cpu().numpy()
        check_classes(classes, len(self._category_of_class), image_id, self._dataset_name)
        category = self._category_of_class[classes]
        scores, corners = instances.scores.float(), instances.pred_boxes.tensor.float()
        check_finite(scores, f"image {image_id}: scores")
        check_finite(corners, f"image {image_id}: boxes")
        score, boxes = scores.cpu().numpy(), corners.cpu().numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]
        annotations = self.annotations
        detections = select_detections(annotations, image, category, score, boxes, self._limit)
        written = np.zeros(len(score), bool)
        if self._output_dir:
            everything = self._keep_all or not annotations.has_annotations
            written = detections.in_limit & (everything | detections.countable)
        masks = None
        if self._has_masks(instances, image_id):
            places = np.flatnonzero(is_matched(detections, self._unlimited) | written)
            rles = encode_masks(instances, detections.order[places])
            masks = dict(zip(places.tolist(), rles, strict=True))
            check_mask_size(rles, annotations.sizes[image], image_id)
        if written.any():
            line = results_line(annotations, detections, masks, written)
            self._seen.lines.append((image, line))
        if annotations.has_annotations:
            self._match(detections, masks)
        self._seen.images.append(image)
        self._seen_images.add(image)

    def _has_masks(self, instances: Instances, image_id: int) -> bool:
        if self._tasks and "segm" not in self._tasks:
            return False
        wanted = self._seen.with_masks or bool(self._tasks)
        bare = not self._seen.with_masks and bool(self._seen.matches)
        check_has_masks(instances, wanted, bare, image_id)
        has_masks = instances.has("pred_masks")
        self._seen.with_masks |= has_masks
        return has_masks

    def _match(self, detections: Detections, masks: Mapping[int, dict[str, Any]] | None) -> None:
        matches = match_detections(self.annotations, detections, masks, self._unlimited)
        if self._decisions:
            truth = self.annotations.images[detections.image]
            part = image_decisions(truth, detections, matches, self._unlimited)
            self._seen.decisions.append(part)
        if len(detections.score):
            self._keep(matches)

    def _keep(self, matches: Matches) -> None:
        self._seen.matches.append(matches)
        self._unpruned += len(matches)
        if self._unlimited and self._unpruned > PRUNE_EVERY:
            joined = join_matches(self._seen.matches, matches.true_positive)
            keep = self._decisions or "standard" in self._modes
            self._seen.matches = [prune_matches(joined, keep)]
            self._unpruned = 0
