"""From data set records to model inputs, for semantic segmentation."""

from collections.abc import Callable

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from PIL import Image

from .augmentation import build_sem_seg_augmentation


class SemSegDatasetMapper:
    """Read an image and its labels, augment both, and turn them into tensors.

    detectron2's mapper reads labels through a conversion to grey, which changes the indices of
    palette images, and reads them in testing too, where the evaluator reads them anyway.
    """

    @configurable
    def __init__(self, *, is_train: bool, augmentations: list, image_format: str) -> None:
        """
        Args:
            is_train: whether labels are read.
            augmentations: detectron2 augmentations, in order.
            image_format: ``"RGB"`` or ``"BGR"``.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        return {
            "is_train": is_train,
            "augmentations": build_sem_seg_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, record: dict) -> dict:
        """
        Args:
            record: ``file_name``, and ``sem_seg_file_name`` for training.

        Returns:
            The record with ``image`` (3, H, W) uint8, ``height`` and ``width`` of the original,
            and in training ``sem_seg`` (H, W) int64.

        Raises:
            FileNotFoundError: a file of the record is missing.
            ValueError: a file is no image, a label map has several channels or another size than
                its image, or the record has none.
        """
        record = dict(record)
        label_file = record.pop("sem_seg_file_name", None)
        image = _read(record["file_name"], lambda file: utils.read_image(file, self.image_format))
        record["height"], record["width"] = image.shape[:2]
        labels = None
        if self.is_train:
            if label_file is None:
                raise ValueError(
                    f"the record of {record['file_name']} has no sem_seg_file_name: train on a "
                    "data set with label maps"
                )
            labels = _read(label_file, _read_labels)
            if labels.ndim != 2:
                raise ValueError(
                    f"{label_file} has {labels.shape[2]} channels: a label map has one, the class "
                    "index of each pixel"
                )
            if labels.shape != image.shape[:2]:
                raise ValueError(
                    f"{label_file} has size {labels.shape[1]}x{labels.shape[0]}, but its image "
                    f"{image.shape[1]}x{image.shape[0]}: prepare the data set again"
                )
        inputs = T.AugInput(image, sem_seg=labels)
        self.augmentations(inputs)
        record["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if self.is_train:
            record["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype(np.int64))
        return record


def _read_labels(file: str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def _read(file: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    try:
        return read(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{file} is missing: prepare the data set (tools/prepare_datasets.py) or set "
            "DETECTRON2_DATASETS"
        ) from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read as an image ({error}): fetch it again") from None
