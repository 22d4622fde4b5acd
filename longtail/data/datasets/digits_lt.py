# SPDX-License-Identifier: Apache-2.0
"""Digits-LT: scikit-learn's handwritten digits with a long tail, 104 down to 1 training image.

root/digits_lt/images/0000.png
root/digits_lt/digits_lt_{train,val,test,balanced}.txt
"""

import os

from longtail.data.datasets.image_list import register_image_list

NAME = "digits_lt"
SPLITS = ("train", "val", "test", "balanced")
CLASSES = tuple(str(digit) for digit in range(10))


def split_list(root: str, split: str) -> str:
    """Name the list of one of ``SPLITS`` under the folder of all data sets."""
    return os.path.join(root, NAME, f"{NAME}_{split}.txt")


def register_digits_lt(root: str) -> None:
    """Register ``digits_lt_{train,val,test,balanced}``.

    Args:
        root: the folder that holds the data sets.
    """
    for split in SPLITS:
        register_image_list(
            f"{NAME}_{split}",
            split_list(root, split),
            os.path.join(root, NAME),
            training_set=f"{NAME}_train",
            classes=CLASSES,
            every_class=split in ("train", "balanced"),
            hint=f"make it with: longtail prepare {NAME}",
        )
