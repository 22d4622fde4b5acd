# SPDX-License-Identifier: Apache-2.0
"""From data set records to model inputs, for semantic segmentation."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from longtail.data.formats.images import read_image, read_labels_of, read_pair
from longtail.data.mappers.augmentation import build_sem_seg_augmentation
from longtail.data.mappers.extra import ExtraAugmentation
from longtail.data.mappers.resizing import UndecodedInput

_REMEDY = "prepare the data set again"


class SemSegDatasetMapper:
    """Read an image and its labels, augment both, and turn them into tensors.

    detectron2's mapper does not check labels, and reads them in testing too, where the evaluator
    reads them anyway.

    Attributes:
        paste: what changes a training image and its labels as they were read, see
            :class:`~longtail.data.mappers.copy_paste.RegionCopyPaste`; None for nothing.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: list,
        image_format: str,
        num_classes: int,
        ignore_label: int = 255,
        extra: ExtraAugmentation | None = None,
        reduced_decoding: bool = False,
    ) -> None:
        """Set the augmentations and the labels.

        Args:
            is_train: whether labels are read.
            augmentations: detectron2 augmentations, in order.
            image_format: ``"RGB"`` or ``"BGR"``.
            num_classes: K; labels are 0..K-1 or ``ignore_label``.
            ignore_label: label of the pixels that are left out.
            extra: what follows the augmentations in training.
            reduced_decoding: whether a training image is decoded at a half, a quarter or an eighth
                of its size where the first augmentation, a resizing that gives a
                :class:`~longtail.data.mappers.resizing.ResizedWindow`, shrinks it by that or more.
                The same numbers are drawn and labels are the same. Nothing is pasted then.
        """
        self.is_train = is_train
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.extra = extra
        self.reduced_decoding = reduced_decoding
        self.paste: Callable | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the arguments from a config."""
        extra, ignore_label = cfg.INPUT.ALBUMENTATIONS, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        return {
            "is_train": is_train,
            "augmentations": build_sem_seg_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_label": ignore_label,
            "extra": ExtraAugmentation(extra, cfg.INPUT.FORMAT, ignore_label)
            if is_train and extra
            else None,
            "reduced_decoding": cfg.INPUT.REDUCED_DECODING,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: ``file_name``, and ``sem_seg_file_name`` for training.

        Returns:
            The record with ``image`` (3, H, W) uint8, ``height`` and ``width`` of the original,
            and in training ``sem_seg`` (H, W) int64.

        Raises:
            FileNotFoundError: a file of the record is missing.
            ValueError: a file is not an image, a label map has several channels, another size than
                its image or a label out of range, or the record has none.
        """
        record = dict(record)
        label_file = record.pop("sem_seg_file_name", None)
        inputs = self._read(record["file_name"], label_file)
        record["height"], record["width"] = inputs.image.shape[:2]
        self.augmentations(inputs)
        image, labels = inputs.image, inputs.sem_seg
        if self.extra is not None:
            image, labels = self.extra(image, labels)
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if self.is_train:
            record["sem_seg"] = torch.as_tensor(labels.astype(np.int64))
        return record

    def _read(self, image_file: str, label_file: str | None) -> T.AugInput:
        if not self.is_train:
            return T.AugInput(read_image(image_file, self.image_format))
        if self.reduced_decoding:
            labels = read_labels_of(image_file, _given(image_file, label_file), _REMEDY)
            self._check_labels(label_file, labels)
            return UndecodedInput(image_file, self.image_format, labels)
        image, labels = self._read_pair(image_file, label_file)
        if self.paste is not None:
            image, labels = self.paste(image, labels, self._read_pair)
        return T.AugInput(image, sem_seg=labels)

    def _read_pair(self, image_file: str, file: str | None) -> tuple[np.ndarray, np.ndarray]:
        file = _given(image_file, file)
        image, labels = read_pair(image_file, file, self.image_format, _REMEDY)
        self._check_labels(file, labels)
        return image, labels

    def _check_labels(self, file: str, labels: np.ndarray) -> None:
        # Here the file is known; a loss would only fail, on a GPU without a usable message.
        below, above = self.ignore_label - 1, max(self.ignore_label + 1, self.num_classes)
        for first, last in ((self.num_classes, below), (above, 255)):
            # By OpenCV in a third of the time of numpy's comparisons.
            wrong = first <= last and cv2.inRange(labels, first, last)
            if np.any(wrong):
                raise ValueError(
                    f"{file} has the label {labels[wrong > 0][0]}, expected "
                    f"0..{self.num_classes - 1} or {self.ignore_label}: prepare the data set "
                    "again, or correct NUM_CLASSES"
                )


def _given(image_file: str, label_file: str | None) -> str:
    if label_file is None:
        raise ValueError(
            f"the record of {image_file} has no sem_seg_file_name: train on a data set with "
            "label maps"
        )
    return label_file
