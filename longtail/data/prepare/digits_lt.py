# SPDX-License-Identifier: Apache-2.0
"""Digits-LT: scikit-learn's 1797 handwritten digits, of which training sees a long tail.

Of each of the 10 classes 50 images are for testing and 20 for validation. 104 of the others (the
smallest class has 174 = 50 + 20 + 104) are the balanced training set, and n_k of these the
long-tailed one, with n_k = round(104 * 100 ** (-k / 9)) for the k-th most frequent class, counted
from 0: 104, 62, 37, 22, 13, 8, 5, 3, 2, 1, in all 257 images. The seed decides which images these
are, and which class is the k-th.
"""

import io
import os

import numpy as np
from PIL import Image

from longtail.data.datasets.digits_lt import NAME, split_list
from longtail.data.formats.digits import WHITE, load_digits, split_digits
from longtail.data.formats.image_list import image_list_text
from longtail.data.prepare.runner import Report
from longtail.data.prepare.writing import holds, write_if_changed


def prepare_digits_lt(root: str, seed: int = 0) -> Report:
    """Write the images, 8 x 8 pixels with 8 bits of grey, and the lists of the four splits.

    Another seed changes the lists alone.

    Args:
        root: the folder that holds the data sets.
        seed: not negative.

    Returns:
        How many files were written, and how many were there already.

    Raises:
        ValueError: ``seed`` is negative.
        ImportError: scikit-learn, which holds the digits, is not installed.
    """
    if seed < 0:
        raise ValueError(f"{NAME}: the seed must not be negative, got {seed}")
    digits = load_digits(NAME)
    lists = {
        split_list(root, split): _list_text(indices, digits.target)
        for split, indices in split_digits(digits.target, seed).items()
    }
    changed = [path for path, content in lists.items() if not holds(path, content)]
    # Lists of two seeds would share images: all old ones go before the first new one comes.
    for path in changed:
        if os.path.exists(path):
            os.remove(path)
    contents = {
        os.path.join(root, NAME, _file(index)): _png(image)
        for index, image in enumerate(digits.images)
    }
    written = sum(write_if_changed(path, data) for path, data in {**contents, **lists}.items())
    return Report(written=written, skipped=len(contents) + len(lists) - written)


def _list_text(indices: np.ndarray, labels: np.ndarray) -> bytes:
    return image_list_text([_file(index) for index in indices], labels[indices]).encode()


def _file(index: int) -> str:
    return f"images/{index:04d}.png"


def _png(image: np.ndarray) -> bytes:
    """Encode (8, 8) values of 0..16 as an image of 0..255."""
    file = io.BytesIO()
    Image.fromarray(np.rint(image * 255 / WHITE).astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()
