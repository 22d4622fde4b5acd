# SPDX-License-Identifier: Apache-2.0
"""Scikit-learn's 1797 handwritten digits of 8 x 8 pixels, and their splits."""

from typing import Any

import numpy as np

NUM_DIGITS = 10
SPLITS = ("train", "val", "test", "balanced")
TEST_IMAGES = 50
VAL_IMAGES = 20
TRAIN_IMAGES = 104
IMBALANCE = 100
# The largest of the grey values.
WHITE = 16


def load_digits(needed_by: str) -> Any:
    """Read scikit-learn's digits: ``images`` (1797, 8, 8), values 0..16, and ``target`` (1797,).

    Args:
        needed_by: the data set, for the message.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise ImportError(
            f"{needed_by} needs scikit-learn: pip install 'detectron2-longtail[digits-lt]'"
        ) from None
    return load()


def split_digits(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Draw the images of train, val, test and balanced (train before it got a tail).

    Args:
        labels: (N,) the digit that each image shows, 0..9.
        seed: not negative.

    Returns:
        Ascending indices (0..N-1) under the names of the splits.
    """
    rng = np.random.default_rng(seed)
    places = rng.permutation(NUM_DIGITS)
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label, place in enumerate(places):
        images = rng.permutation(np.flatnonzero(labels == label))
        test, val, pool = np.split(images, [TEST_IMAGES, TEST_IMAGES + VAL_IMAGES])
        parts["test"].append(test)
        parts["val"].append(val)
        parts["balanced"].append(pool[:TRAIN_IMAGES])
        number = round(TRAIN_IMAGES * IMBALANCE ** (-int(place) / (NUM_DIGITS - 1)))
        parts["train"].append(pool[:number])
    return {split: np.sort(np.concatenate(indices)) for split, indices in parts.items()}
