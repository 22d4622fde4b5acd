# SPDX-License-Identifier: Apache-2.0
"""Evaluator for image classification: detectron2's interface around the pure functions.

Shapes: K classes.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.statistics.groups import shot_groups
from longtail.evaluation.base import LongTailEvaluator, test_set_fingerprint
from longtail.evaluation.classification.metrics import label_ranks
from longtail.evaluation.classification.predictions import best_of_batch, write_predictions
from longtail.evaluation.classification.report import LAYOUT, build_report, format_table
from longtail.evaluation.metrics import check_finite
from longtail.evaluation.report import flat_results, write_confusion, write_report
from longtail.evaluation.training_counts import training_counts

logger = logging.getLogger(__name__)


class ClassificationEvaluator(LongTailEvaluator):
    """Top-1, top-5 and the class-balanced accuracy of a data set, per class and group.

    The groups are classes of many (more than 100), medium (20 to 100) and few training images.
    Only the place of the right class, and the class in the first place, are kept of an image,
    whatever the number of classes.
    """

    task = "classification"

    def __init__(
        self,
        dataset_name: str,
        *,
        distributed: bool = True,
        output_dir: str | None = None,
        training_sets: Sequence[str] = (),
        write_predictions: bool = False,
    ) -> None:
        """Look the data set up and count its training images.

        Args:
            dataset_name: a registered data set whose records have ``image_id`` and ``label`` and
                whose metadata has ``thing_classes`` (K names) and, for the groups,
                ``training_set``, a registered name. If that one's list is not on this machine,
                a warning takes the place of the groups. Every process has to be here, see
                :func:`~longtail.data.statistics.class_stats.get_class_stats`.
            distributed: gather the images of all processes. Otherwise each process evaluates what
                it has seen.
            output_dir: where ``classification_evaluation.json`` and ``.csv`` and
                ``confusion_matrix.npz`` go; nothing is written without it.
            training_sets: what takes the place of the metadata's ``training_set``, if that is
                not given; or the ``training_set`` of these, as balanced images have one.
            write_predictions: also write ``classification_predictions.json``, see
                :mod:`.classification.predictions`.

        Raises:
            ValueError: the data set is not registered or lacks something, the training set has
                other classes, or predictions are to be written without ``output_dir``.
        """
        if write_predictions and not output_dir:
            raise ValueError(
                "ClassificationEvaluator: write_predictions needs an output_dir to write to"
            )
        super().__init__(dataset_name, output_dir, distributed=distributed)
        # First: some data sets know their classes once they are loaded.
        self._labels, self._file_names = _read_records(dataset_name)
        self._class_names = self.needed_metadata("thing_classes", "class names")
        own = self._metadata.get("training_set", None)
        training_sets = (own,) if own else _long_tailed(training_sets)
        if not training_sets:
            logger.warning(
                f"{dataset_name}: no accuracy of classes with many, medium and few training "
                "images: register it with its training_set"
            )
        self._train_counts = training_counts(training_sets, self._class_names, dataset_name)
        self._write_predictions = write_predictions
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        # Rank of the right class, and the predicted class.
        self._seen: dict[int, tuple[int, int]] = {}
        self._predictions: list[dict[str, Any]] = []

    @torch.no_grad()
    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, torch.Tensor]]
    ) -> None:
        """Rank the right classes of a batch.

        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``scores``, (K,) on any device.

        Raises:
            ValueError: an image is not in the data set, or was there before; scores of another
                shape, or not finite.
        """
        ids = [item["image_id"] for item in inputs]
        for image_id, output in zip(ids, outputs, strict=True):
            if image_id not in self._labels:
                raise ValueError(
                    f"image_id {image_id} is not an image of {self._dataset_name!r}; build the "
                    "evaluator with the name of the data set that is loaded"
                )
            if output["scores"].shape != (len(self._class_names),):
                raise ValueError(
                    f"image_id {image_id}: expected scores of shape ({len(self._class_names)},), "
                    f"one for each class of {self._dataset_name!r}, got "
                    f"{tuple(output['scores'].shape)}"
                )
        scores = torch.stack([output["scores"] for output in outputs])
        finite = scores.isfinite().all(dim=1).tolist()
        first = finite.index(False) if not all(finite) else 0
        check_finite(scores[first], f"image_id {ids[first]}: scores")
        labels = torch.tensor([self._labels[i] for i in ids], device=scores.device)
        ranks = label_ranks(scores, labels)
        # Of equal scores the right class counts only if it is first, here as in the ranks.
        predicted = torch.where(ranks == 0, labels, scores.argmax(dim=1))
        for image_id, *seen in zip(ids, ranks.tolist(), predicted.tolist(), strict=True):
            if image_id in self._seen:
                raise self._seen_twice(image_id)
            self._seen[image_id] = tuple(seen)
        if self._write_predictions:
            self._predictions += best_of_batch(inputs, scores)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Compute, log and write the metrics over all images.

        Returns:
            ``{"classification": {"top1", "top5", "mean_acc", "mean_acc-<group>", "acc-<class>"}}``
            in percent in the main process, None in the others.

        Raises:
            ValueError: no image was evaluated.
            ValueError: two processes had the same image.
        """
        seen = self._gather_seen()
        predictions = self.gather(self._predictions) if self._write_predictions else None
        if seen is None:
            return None
        if not seen:
            raise ValueError(
                f"{self._dataset_name}: no image was evaluated; check "
                "that the loader yields the data set's images"
            )
        # In one order, whichever process had which image.
        ids = sorted(seen)
        ranks, predicted = torch.tensor([seen[i] for i in ids]).unbind(dim=1)
        labels = torch.tensor([self._labels[i] for i in ids])
        counts = self._train_counts
        groups = shot_groups(counts["train_images"]) if counts else {}
        report = self.recorded(
            # Many test sets have as many images of each class, in the order of classes.
            test_set_fingerprint(
                self._class_names,
                np.array(ids, np.int64),
                labels.numpy(),
                [self._file_names[i] for i in ids],
            ),
            build_report(ranks, labels, self._class_names, counts, groups),
        )
        if self._output_dir:
            pairs = labels.numpy(), predicted.numpy()
            ones = np.ones(len(ids), np.int64)
            write_confusion(self._output_dir, *pairs, ones, len(self._class_names))
            write_report(report, self._output_dir, LAYOUT)
        if predictions is not None:
            names = self._dataset_name, self._class_names
            write_predictions(self._output_dir, *names, predictions)
        where = f"\nevery class: {self._output_dir}" if self._output_dir else ""
        logger.info(f"{self._dataset_name}, {len(ids)} images:\n{format_table(report)}{where}")
        return OrderedDict(classification=flat_results(report, LAYOUT))

    def _gather_seen(self) -> dict[int, tuple[int, int]] | None:
        """Join the images of all processes in the main process."""
        parts = self.gather(self._seen)
        if parts is None:
            return None
        joined: dict[int, tuple[int, int]] = {}
        for part in parts:
            shared = part.keys() & joined.keys()
            if shared:
                raise self._seen_twice(min(shared))
            joined |= part
        return joined

    def _seen_twice(self, image_id: int) -> ValueError:
        return ValueError(
            f"image_id {image_id} of {self._dataset_name!r} was evaluated twice: every image "
            "counts once, let the loader yield it once"
        )


def _long_tailed(training_sets: Sequence[str]) -> list[str]:
    """The sets that tell frequent from rare classes: these, or what they name for it themselves."""
    known = set(training_sets) & set(DatasetCatalog.list())
    named = {name: MetadataCatalog.get(name).get("training_set", None) for name in known}
    return [named.get(name) or name for name in training_sets]


def _read_records(dataset_name: str) -> tuple[dict[int, int], dict[int, str]]:
    """The label and the name of the file, without its folders, of each image_id."""
    labels, names = {}, {}
    for record in DatasetCatalog.get(dataset_name):
        image_id = record["image_id"]
        if image_id in labels:
            raise ValueError(f"{dataset_name}: two records have the image_id {image_id}")
        labels[image_id] = record["label"]
        names[image_id] = os.path.basename(record.get("file_name", ""))
    return labels, names
