# SPDX-License-Identifier: Apache-2.0
"""From an image that was read to a model's input, as in testing.

Shapes: (H, W) size of the image as it is shown, (h, w) of what the model sees.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image, ImageOps

from longtail.data.formats.headers import IMAGE_MODES
from longtail.data.formats.images import read_image
from longtail.data.mappers.augmentation import build_sem_seg_augmentation
from longtail.data.mappers.classification import FORMATS, ClassificationDatasetMapper

# (H, W, 3) pixels in RGB and the name of the image to the dict that a model takes.
PixelMapper = Callable[[np.ndarray, str], dict[str, Any]]


def as_pixels(image: Any, name: str, channels: str | None = None) -> np.ndarray:
    """Read an image, or bring one that was read into one form.

    Args:
        image: a path; a PIL image, which is turned as its EXIF data say; or an array, (H, W, 3) or
            grey (H, W), uint8.
        name: of the image, for messages.
        channels: order of the channels of a coloured array, ``"RGB"`` or ``"BGR"``; others know
            theirs.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, or not 8-bit; or a coloured array comes without the order
            of its channels.
        TypeError: it is something else.
    """
    if isinstance(image, Image.Image):
        if image.mode not in IMAGE_MODES:
            raise ValueError(
                f"{name} has mode {image.mode}, which does not become 8-bit RGB without losing "
                "the brighter values: convert it to 8 bits"
            )
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray):
        return _of_array(image, name, channels)
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(
            f"{name}: expected a path, a PIL image or a NumPy array, got {type(image).__name__}"
        )
    return read_image(image, "RGB")


def _of_array(array: np.ndarray, name: str, channels: str | None) -> np.ndarray:
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(
            f"{name}: expected an array (H, W, 3) or (H, W) of uint8, 0..255, got "
            f"{array.shape} of {array.dtype}"
        )
    if not array.size:
        raise ValueError(f"{name}: the array {array.shape} has no pixel")
    if grey:
        return np.repeat(array[..., None], 3, axis=2)
    if channels not in FORMATS:
        raise ValueError(
            f"{name}: an array does not say the order of its channels: give channels='RGB' (PIL, "
            f"matplotlib) or 'BGR' (cv2.imread), got {channels!r}"
        )
    return array[..., ::-1] if channels == "BGR" else array


def build_pixel_mapper(cfg: CfgNode, kind: str) -> PixelMapper:
    """Build what resizes an image as in testing.

    Args:
        cfg: read for INPUT.
        kind: of the model. For ``"classification"`` the center is cut out; others see the whole
            image, resized by MIN_SIZE_TEST and MAX_SIZE_TEST, ``"sem_seg"`` with RESIZE_FILTER.

    Returns:
        From (H, W, 3) uint8 in RGB, and the image's name, to ``image`` (3, h, w) uint8 in
        INPUT.FORMAT, ``file_name``, and ``height`` and ``width``, H and W.

    Raises:
        ValueError: another INPUT.FORMAT than RGB and BGR, or bad sizes. So may the result.
    """
    if cfg.INPUT.FORMAT not in FORMATS:
        raise ValueError(f"INPUT.FORMAT must be one of {list(FORMATS)}, got {cfg.INPUT.FORMAT!r}")
    if kind == "classification":
        mapper = ClassificationDatasetMapper(cfg, is_train=False)

        def classified(pixels: np.ndarray, name: str) -> dict[str, Any]:
            mapper.check_size(name, pixels)
            return {"file_name": name, "image": mapper.map_pixels(np.ascontiguousarray(pixels))}

        return classified
    if kind == "sem_seg":
        steps = build_sem_seg_augmentation(cfg, is_train=False)
    else:
        steps = [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
    augmentations = T.AugmentationList(steps)
    flip = -1 if cfg.INPUT.FORMAT == "BGR" else 1

    def mapped(pixels: np.ndarray, name: str) -> dict[str, Any]:
        inputs = T.AugInput(np.ascontiguousarray(pixels[..., ::flip]))
        augmentations(inputs)
        image = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        height, width = pixels.shape[:2]
        return {"file_name": name, "image": image, "height": height, "width": width}

    return mapped
