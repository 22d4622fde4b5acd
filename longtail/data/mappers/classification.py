# SPDX-License-Identifier: Apache-2.0
"""From data set records to model inputs, for image classification."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from longtail.data.formats.images import read_image
from longtail.data.mappers.extra import ExtraAugmentation

CONFIG = "INPUT.CLASSIFICATION"
FORMATS = ("RGB", "BGR")
FLIPS = ("horizontal", "none")
# Width by height of a training crop, before it is resized to a square.
CROP_RATIO = (3 / 4, 4 / 3)
FLIP_PROBABILITY = 0.5


class ClassificationDatasetMapper:
    """Read an image, augment it or cut out its center, and turn it into a tensor.

    What is random is drawn from torch's global generator, which detectron2 seeds in every worker.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        transform: Callable[[torch.Tensor], torch.Tensor] | None,
        image_format: str,
        num_classes: int,
        size: int = 0,
        in_memory: bool = False,
        extra: ExtraAugmentation | None = None,
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

        Raises:
            ValueError: another format.
        """
        if image_format not in FORMATS:
            raise ValueError(f"INPUT.FORMAT must be one of {list(FORMATS)}, got {image_format!r}")
        self.is_train = is_train
        self.transform = transform
        self.image_format = image_format
        self.num_classes = num_classes
        self.size = size
        self.extra = extra
        self._kept: dict[str, np.ndarray] | None = {} if in_memory else None

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the arguments from a config."""
        extra = cfg.INPUT.ALBUMENTATIONS
        return {
            "is_train": is_train,
            "transform": build_transform(cfg, is_train),
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
        # Read as RGB whatever the model wants: saturation and brightness depend on the order.
        return {**record, "image": self.map_pixels(self._read(record["file_name"]))}

    def map_pixels(self, pixels: np.ndarray) -> torch.Tensor:
        """Map an image that was read.

        Args:
            pixels: (H, W, 3) uint8 in RGB, of ``size`` where there is no transform.

        Returns:
            (3, SIZE, SIZE) uint8 in the order of channels that the model wants.
        """
        # torch warns of what is not writable, as images that are kept in memory are.
        own = pixels if pixels.flags.writeable else pixels.copy()
        tensor = torch.from_numpy(own).permute(2, 0, 1)
        if self.transform is not None:
            tensor = self.transform(tensor)
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


class RandomWindow:
    """torchvision's crop, flip and color jitter, equal to them in every value and in what is drawn.

    In less time: a window of a larger image is copied before it is resized, or torch would take a
    slower way and put the channels outermost, which Pillow, whose colors are faster than torch's,
    would have to reorder.
    """

    def __init__(
        self, size: int, scale: tuple[float, float], *, flip: bool, color_jitter: float
    ) -> None:
        """Set the augmentations.

        Args:
            size: side of the result in pixels.
            scale: smallest and largest part of the area that a window covers, in (0, 1].
            flip: whether half of the windows are flipped horizontally.
            color_jitter: j in [0, 1]: brightness, contrast and saturation are scaled by factors in
                [1 - j, 1 + j]; 0 leaves colors as they are.
        """
        self.size, self.scale = size, scale
        self.flip = flip
        jitter = dict.fromkeys(("brightness", "contrast", "saturation"), color_jitter)
        self.colors = v2.ColorJitter(**jitter) if color_jitter else None

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Augment an image (3, H, W) uint8 in RGB to (3, size, size)."""
        # Before torchvision 0.21 no other method gives what is drawn.
        top, left, height, width = v2.RandomResizedCrop.get_params(image, self.scale, CROP_RATIO)
        window = image[:, top : top + height, left : left + width]
        copied = window.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        image = functional.resize(copied, [self.size, self.size], antialias=True)
        if self.flip and torch.rand(1) < FLIP_PROBABILITY:
            image = image.flip(-1)
        if self.colors is None:
            return image
        picture = self.colors(Image.fromarray(image.permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def build_transform(cfg: CfgNode, is_train: bool) -> Callable[[torch.Tensor], torch.Tensor] | None:
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
