# SPDX-License-Identifier: Apache-2.0
"""Reading images and label maps, with errors that name the file and the fix.

H, W: height and width of an image.
"""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
from detectron2.data import detection_utils as utils
from PIL import Image

PathLike = str | os.PathLike


def read_image(path: PathLike, image_format: str) -> np.ndarray:
    """Read an image as detectron2 does, turned as its EXIF data says.

    Args:
        path: an image file.
        image_format: ``"RGB"`` or ``"BGR"``.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, or is cut short.
    """
    with _clear_errors(path):
        return utils.read_image(path, image_format)


def read_label_map(path: PathLike) -> np.ndarray:
    """Read an 8-bit label map; of an image with a palette the indices.

    detectron2 reads labels through a conversion to grey, which changes palette indices.

    Returns:
        (H, W) uint8, writable.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, is cut short, or has more than one 8-bit channel.
    """
    with opened_label_map(path) as image:
        return np.array(image)


@contextlib.contextmanager
def opened_label_map(path: PathLike) -> Iterator[Image.Image]:
    """Open a label map as an image of label values; errors as :func:`read_label_map`."""
    with _clear_errors(path), Image.open(path) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(
                f"{path} has mode {image.mode}, but a label map has one 8-bit channel (L or P) "
                "with the class index of each pixel: convert it"
            )
        yield image


@contextlib.contextmanager
def _clear_errors(path: PathLike) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: prepare the data set (longtail prepare) or set DETECTRON2_DATASETS"
        ) from None
    except (OSError, SyntaxError, EOFError) as error:  # what Pillow raises
        raise ValueError(f"{path} cannot be read as an image ({error}): fetch it again") from None
