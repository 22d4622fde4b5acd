# SPDX-License-Identifier: Apache-2.0
"""Evaluator for semantic segmentation: detectron2's interface around the pure functions.

Shapes: K classes, (H, W) image size.
"""

import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from longtail.data.datasets.alignment import MODEL_CLASSES
from longtail.data.datasets.classes import class_order
from longtail.data.formats.headers import check_label_size, read_header
from longtail.data.formats.images import read_label_map
from longtail.data.statistics.groups import checked_groups, groups_by_pixel_share
from longtail.evaluation.base import LongTailEvaluator, test_set_fingerprint
from longtail.evaluation.report import flat_results, write_confusion, write_report
from longtail.evaluation.sem_seg.metrics import as_class_map, confusion_matrix
from longtail.evaluation.sem_seg.report import LAYOUT, build_report, format_tables
from longtail.evaluation.training_counts import training_counts
from longtail.utils.io import write_json

logger = logging.getLogger(__name__)


class SemSegEvaluator(LongTailEvaluator):
    """mIoU, mAcc and aAcc of a data set, per class and for head, body and tail classes.

    The confusion matrix is counted on the device of the logits, so that a GPU sends back neither
    logits nor label maps. Unlike detectron2's evaluator it encodes RLEs only if asked to.

    The groups are, in this order: ``class_groups`` if given; ``class_groups`` of the data set's
    metadata (ADE20K: Table 16 of DisAlign); thirds of the classes by pixels
    (:func:`~longtail.data.statistics.groups.groups_by_pixel_share`), namely by those of the
    training sets, and only if they are not known by the ground truth that was evaluated, with a
    warning: that choice depends on which images were evaluated.
    """

    task = "sem_seg"

    def __init__(
        self,
        dataset_name: str,
        *,
        distributed: bool = True,
        output_dir: str | None = None,
        class_groups: Mapping[str, Sequence[int]] | None = None,
        training_sets: Sequence[str] = (),
        write_predictions: bool = False,
    ) -> None:
        """Look the data set and its groups of classes up.

        Args:
            dataset_name: a registered data set whose records have ``sem_seg_file_name`` and whose
                metadata has ``stuff_classes`` (K names) and, if it is not 255, ``ignore_label``.
                ``model_classes``, the same names in the order of the model's classes, let
                predictions be translated.
            distributed: add up the matrices of all processes. Otherwise each process evaluates
                what it has seen.
            output_dir: where ``sem_seg_evaluation.json`` and ``.csv`` and
                ``confusion_matrix.npz`` go; nothing is written without it.
            class_groups: class indices by group name, each class in exactly one group.
            training_sets: registered data sets, whose classes are counted for the report and, where
                there are no ``class_groups``, to cut the groups by their pixels. Every process has
                to be here, see :func:`~longtail.data.statistics.class_stats.get_class_stats`.
            write_predictions: also write ``sem_seg_predictions.json``, one RLE per image and
                class in COCO's result format.

        Raises:
            ValueError: the data set is not registered or lacks something, the groups do not hold
                every class once, the training sets have other classes, or predictions are to be
                written without ``output_dir``.
        """
        if write_predictions and not output_dir:
            raise ValueError("SemSegEvaluator: write_predictions needs an output_dir to write to")
        super().__init__(dataset_name, output_dir, distributed=distributed)
        self._write_predictions = write_predictions
        self._class_names = self.needed_metadata("stuff_classes", "class names")
        self._ignore_label = self._metadata.get("ignore_label", 255)
        model_classes = self._metadata.get(MODEL_CLASSES, None)
        self._label_of_class = model_classes and torch.tensor(
            class_order(model_classes, self._class_names, "the model", dataset_name)
        )
        ids = self._metadata.get("stuff_dataset_id_to_contiguous_id", {})
        self._dataset_ids = {index: dataset_id for dataset_id, index in ids.items()}
        self._train_counts = training_counts(training_sets, self._class_names, dataset_name)
        self._class_groups = self._choose_groups(
            class_groups or self._metadata.get("class_groups", None)
        )
        self._ground_truth_files = _ground_truth_files(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        self._num_images = 0
        self._confusion: torch.Tensor | None = None
        self._predictions: list[dict[str, Any]] = []

    @torch.no_grad()
    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, torch.Tensor]]
    ) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: dicts whose ``file_name`` is that of a record of the data set.
            outputs: dicts whose ``sem_seg`` holds the logits (K, H, W), or the integer classes
                (H, W), at ground truth size.

        Raises:
            ValueError: an image that the data set does not have, logits of another shape or not
                finite, or a label outside 0..K-1.
            FileNotFoundError: a ground truth file is missing.
        """
        for record, output in zip(inputs, outputs, strict=True):
            file_name, segmented = record["file_name"], output["sem_seg"]
            if file_name not in self._ground_truth_files:
                raise ValueError(
                    f"{file_name} is not an image of {self._dataset_name!r}; "
                    "build the evaluator with the name of the data set that is loaded"
                )
            ground_truth_file = self._ground_truth_files[file_name]
            target = torch.from_numpy(read_label_map(ground_truth_file)).to(segmented.device)
            expected = (len(self._class_names), *target.shape)
            if tuple(segmented.shape) not in (expected, expected[1:]):
                _check_pair(file_name, ground_truth_file, tuple(target.shape))
                raise ValueError(
                    f"{file_name}: expected logits (K, H, W) = {expected} or classes (H, W) as "
                    f"{ground_truth_file} has them, got {tuple(segmented.shape)}; the model must "
                    "have the data set's number of classes and resize its logits to the size of "
                    "the label map"
                )
            prediction = as_class_map(segmented, file_name)
            if self._label_of_class is not None:
                prediction = self._label_of_class.to(prediction.device)[prediction]
            self._update(prediction, target, ground_truth_file)
            if self._write_predictions:
                self._predictions += self._encode(prediction.cpu().numpy(), file_name)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Compute, log and write the metrics over all images.

        Returns:
            Metrics by name,
            ``{"sem_seg": {"mIoU", "mAcc", "aAcc", "fwIoU", "mIoU-<group>", "mAcc-<group>",
            "IoU-<class>", "Acc-<class>"}}`` in percent in the main process, None in the others.

        Raises:
            ValueError: nothing to evaluate: no image, or only ignored pixels.
        """
        confusion, num_images, predictions = self._gather()
        if not confusion.any():
            raise ValueError(
                f"{self._dataset_name}: {num_images} images with no labelled pixel were evaluated, "
                "so there is no mIoU; check the data set and that the loader yields its images"
            )
        if self._distributed and not comm.is_main_process():
            return None
        groups = self._class_groups
        if groups is None:
            logger.warning(
                f"{self._dataset_name}: head, body and tail are cut by the evaluated pixels, since "
                "those of the training set are not known"
            )
            groups = groups_by_pixel_share(confusion.sum(dim=1))
        report = self.recorded(
            self._fingerprint(confusion),
            {
                "num_images": num_images,
                **build_report(confusion, self._class_names, groups, self._train_counts),
            },
        )
        if self._output_dir:
            target, prediction = confusion.nonzero(as_tuple=True)
            counts = confusion[target, prediction]
            pairs = (array.numpy() for array in (target, prediction, counts))
            write_confusion(self._output_dir, *pairs, len(confusion))
            write_report(report, self._output_dir, LAYOUT)
        if self._write_predictions:
            write_json(self._output_dir / "sem_seg_predictions.json", predictions)
        logger.info(f"{self._dataset_name}, {num_images} images:\n{format_tables(report)}")
        return OrderedDict(sem_seg=flat_results(report, LAYOUT))

    def _choose_groups(
        self,
        class_groups: Mapping[str, Sequence[int]] | None,
    ) -> dict[str, list[int]] | None:
        """Choose the groups; None where only the evaluated ground truth can give them."""
        if class_groups:
            return checked_groups(
                class_groups, len(self._class_names), f"SemSegEvaluator: {self._dataset_name!r}"
            )
        pixels = self._train_counts.get("train_pixels")
        return None if pixels is None else groups_by_pixel_share(pixels)

    def _fingerprint(self, confusion: torch.Tensor) -> str:
        """Of the images' names and of the pixels of each class, all of which were evaluated."""
        names = sorted(os.path.basename(file) for file in self._ground_truth_files.values())
        return test_set_fingerprint(self._class_names, names, confusion.sum(dim=1).numpy())

    def _update(
        self, prediction: torch.Tensor, target: torch.Tensor, ground_truth_file: str
    ) -> None:
        try:
            counts = confusion_matrix(
                prediction, target, len(self._class_names), self._ignore_label
            )
        except ValueError as error:
            raise ValueError(f"{ground_truth_file}: {error}") from error
        self._confusion = counts if self._confusion is None else self._confusion + counts
        self._num_images += 1

    def _gather(self) -> tuple[torch.Tensor, int, list[dict[str, Any]]]:
        """Gather matrix (K, K), number of images, and predictions (main process only)."""
        confusion = self._confusion
        if confusion is None:  # a process may get no image of a small data set
            confusion = torch.zeros([len(self._class_names)] * 2, dtype=torch.int64)
        if self.is_alone:
            return confusion.cpu(), self._num_images, self._predictions
        device = "cuda" if "nccl" in dist.get_backend() else "cpu"
        packed = torch.cat([confusion.flatten(), confusion.new_tensor([self._num_images])])
        packed = packed.to(device)
        dist.all_reduce(packed)
        packed = packed.cpu()
        parts = self.gather(self._predictions) if self._write_predictions else None
        predictions = list(itertools.chain.from_iterable(parts or []))
        return packed[:-1].reshape(confusion.shape), int(packed[-1]), predictions

    def _encode(self, prediction: np.ndarray, file_name: str) -> list[dict[str, Any]]:
        """Encode one image as COCO results: an RLE of every predicted class."""
        results = []
        for label in np.unique(prediction).tolist():
            mask = np.asfortranarray(prediction == label, dtype=np.uint8)
            rle = mask_util.encode(mask)
            results.append(
                {
                    "file_name": file_name,
                    "category_id": self._dataset_ids.get(label, label),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                }
            )
        return results


def _ground_truth_files(dataset_name: str) -> dict[str, str]:
    files = {}
    for record in DatasetCatalog.get(dataset_name):
        if "sem_seg_file_name" not in record:
            raise ValueError(
                f"{dataset_name}: the record of {record['file_name']} has no sem_seg_file_name; "
                "semantic evaluation needs a label map for every image"
            )
        files[record["file_name"]] = record["sem_seg_file_name"]
    return files


def _check_pair(image_file: str, label_file: str, label_size: tuple[int, int]) -> None:
    """Where the sizes of image and label map differ, the logits are not to blame."""
    if os.path.isfile(image_file):
        remedy = "prepare the data set again"
        check_label_size(label_file, label_size, image_file, read_header(image_file), remedy)
