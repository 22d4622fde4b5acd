# SPDX-License-Identifier: Apache-2.0
"""From data set records to model inputs, for image classification."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torchvision.transforms import v2

from longtail.data.formats.headers import read_header
from longtail.data.formats.images import read_image, read_reduced
from longtail.data.mappers.extra import ExtraAugmentation
from longtail.data.mappers.random_window import RandomWindow

CONFIG = "INPUT.CLASSIFICATION"
FORMATS = ("RGB", "BGR")
FLIPS = ("horizontal", "none")
Transform = Callable[[torch.Tensor], torch.Tensor]


class ClassificationDatasetMapper:
    """Read an image, augment it or cut out its center, and turn it into a tensor.

    What is random is drawn from torch's global generator, which detectron2 seeds in every worker.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        transform: Transform | None,
        image_format: str,
        num_classes: int,
        size: int = 0,
        in_memory: bool = False,
        extra: ExtraAugmentation | None = None,
        reduced_decoding: bool = False,
    ) -> None:
        """Set the transform and the classes.

        Args:
            is_train: whether the label is checked.
            transform: of (3, H, W) uint8 in RGB; None leaves images of ``size`` as they are.
            image_format: order of the channels that the model wants, ``"RGB"`` or ``"BGR"``.
            num_classes: K.
            size: side of the images in pixels, without a transform.
            in_memory: whether decoded images are kept, by their path.
            extra: what follows the transform in training.
            reduced_decoding: whether an image is decoded at a half, a quarter or an eighth of its
                size where the transform, a :class:`.RandomWindow`, shrinks its window by that or
                more. The same numbers are drawn.

        Raises:
            ValueError: another format, or reduced images are to be kept.
        """
        if image_format not in FORMATS:
            raise ValueError(f"INPUT.FORMAT must be one of {list(FORMATS)}, got {image_format!r}")
        if reduced_decoding and in_memory:
            raise ValueError(
                f"INPUT.REDUCED_DECODING decodes an image anew for each window, {CONFIG}.IN_MEMORY "
                "keeps it: set one of them to False"
            )
        self.is_train = is_train
        self.transform = transform
        self.image_format = image_format
        self.num_classes = num_classes
        self.size = size
        self.extra = extra
        self.reduced_decoding = reduced_decoding
        self._kept: dict[str, np.ndarray] | None = {} if in_memory else None

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the arguments from a config."""
        extra = cfg.INPUT.ALBUMENTATIONS
        transform = build_transform(cfg, is_train)
        # Without a transform nothing is shrunk.
        reduced = is_train and cfg.INPUT.REDUCED_DECODING and transform is not None
        return {
            "is_train": is_train,
            "transform": transform,
            "reduced_decoding": reduced,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.CLASSIFIER.NUM_CLASSES,
            "size": cfg.INPUT.CLASSIFICATION.SIZE,
            "in_memory": cfg.INPUT.CLASSIFICATION.IN_MEMORY,
            # Images are in RGB until all is done.
            "extra": ExtraAugmentation(extra, "RGB") if is_train and extra else None,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: ``file_name``, and for training ``label``, 0..K-1.

        Returns:
            The record with ``image``, (3, SIZE, SIZE) uint8.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not an image, or the label is missing or out of range.
        """
        if self.is_train and record.get("label") not in range(self.num_classes):
            raise ValueError(
                f"{record['file_name']} has the label {record.get('label')}, expected "
                f"0..{self.num_classes - 1}: correct the image list or "
                "MODEL.CLASSIFIER.NUM_CLASSES"
            )
        file = record["file_name"]
        # Read as RGB whatever the model wants: saturation and brightness depend on the order.
        if not self.reduced_decoding:
            return {**record, "image": self.map_pixels(self._read(file))}
        box = self.transform.draw(read_header(file).size)
        pixels, reduction = read_reduced(file, "RGB", self.transform.shrinking(box))
        transform = partial(self.transform.cut, box=box, reduction=reduction)
        return {**record, "image": self._mapped(pixels, transform)}

    def map_pixels(self, pixels: np.ndarray) -> torch.Tensor:
        """Map an image that was read.

        Args:
            pixels: (H, W, 3) uint8 in RGB, of ``size`` where there is no transform.

        Returns:
            (3, SIZE, SIZE) uint8 in the order of channels that the model wants.
        """
        return self._mapped(pixels, self.transform)

    def _mapped(self, pixels: np.ndarray, transform: Transform | None) -> torch.Tensor:
        # torch warns of what is not writable, as images that are kept in memory are.
        own = pixels if pixels.flags.writeable else pixels.copy()
        tensor = torch.from_numpy(own).permute(2, 0, 1)
        if transform is not None:
            tensor = transform(tensor)
        if self.extra is not None:
            image, _ = self.extra(tensor.permute(1, 2, 0).numpy())
            tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return tensor.flip(0) if self.image_format == "BGR" else tensor

    def _read(self, path: str) -> np.ndarray:
        """(H, W, 3) pixels."""
        if self._kept is not None and path in self._kept:
            return self._kept[path]
        pixels = read_image(path, "RGB")
        self.check_size(path, pixels)
        if self._kept is not None:
            self._kept[path] = pixels
        return pixels

    def check_size(self, name: str, pixels: np.ndarray) -> None:
        """Refuse an image of another size where images are taken as they are.

        Args:
            name: of the image, for the message.
            pixels: (H, W, 3).

        Raises:
            ValueError: there is no transform, and the image is not of ``size``.
        """
        if self.transform is None and pixels.shape[:2] != (self.size, self.size):
            raise ValueError(
                f"{name} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but {CONFIG}.PAD takes "
                f"images as they are, of {CONFIG}.SIZE {self.size}: set PAD to 0"
            )


def build_transform(cfg: CfgNode, is_train: bool) -> Transform | None:
    """Build what happens to an image (3, H, W) uint8 in RGB; None where nothing does.

    Args:
        cfg: its INPUT.CLASSIFICATION and INPUT.RANDOM_FLIP are read.
        is_train: whether for training: random crop, flip, color; or for testing: the center.

    Raises:
        ValueError: an option is out of range.
    """
    options = cfg.INPUT.CLASSIFICATION
    if options.PAD:
        # The model shifts and flips them.
        return None
    if options.SIZE < 1 or options.TEST_RESIZE < options.SIZE:
        raise ValueError(
            f"{CONFIG}.SIZE must be >= 1, and TEST_RESIZE >= SIZE, the square that is cut out of "
            f"it: got {options.SIZE} and {options.TEST_RESIZE}"
        )
    if not is_train:
        # Pillow's resizing, which others test with, too; torch's is faster, and rounds otherwise.
        steps = [v2.Resize(options.TEST_RESIZE, antialias=True), v2.CenterCrop(options.SIZE)]
        return v2.Compose([v2.ToPILImage(), *steps, v2.PILToTensor()])
    scale = tuple(options.CROP_SCALE)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"{CONFIG}.CROP_SCALE must be two ascending parts of the area in (0, 1], got "
            f"{list(scale)}"
        )
    if cfg.INPUT.RANDOM_FLIP not in FLIPS:
        raise ValueError(
            f"INPUT.RANDOM_FLIP must be one of {list(FLIPS)} for classification, got "
            f"{cfg.INPUT.RANDOM_FLIP!r}"
        )
    jitter = options.COLOR_JITTER
    if not 0 <= jitter <= 1:
        raise ValueError(f"{CONFIG}.COLOR_JITTER must be in [0, 1], got {jitter}")
    flip = cfg.INPUT.RANDOM_FLIP == "horizontal"
    return RandomWindow(options.SIZE, scale, flip=flip, color_jitter=jitter)
