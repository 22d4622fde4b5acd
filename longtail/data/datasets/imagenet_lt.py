# SPDX-License-Identifier: Apache-2.0
"""ImageNet-LT: 1000 classes of ImageNet, thinned to 1280 down to 5 training images.

    root/imagenet/{train,val}/n01440764/*.JPEG
    root/ImageNet_LT/ImageNet_LT_{train,val,test}.txt

The folders are those of ILSVRC2012_img_{train,val}.tar with one folder a class (its synset), the
lists those of the data set's authors. ``val`` is taken from the training images, ``test`` is
ImageNet's validation set. ``longtail prepare imagenet_lt`` checks them, and writes the
list of ``imagenet_full_train``: all training images but those of ``val``.
"""

import os

from longtail.data.datasets.image_list import register_image_list

IMAGES = "imagenet"
LISTS = "ImageNet_LT"
NUM_CLASSES = 1000
SIZES = {"train": 115846, "val": 20000, "test": 50000}
FULL_TRAIN = "imagenet_full_train"
_COMMAND = "longtail prepare imagenet_lt"


def full_train_list(root: str) -> str:
    """Name the list of ``imagenet_full_train`` under the folder of all data sets."""
    return os.path.join(root, LISTS, "ImageNet_full_train.txt")


def register_imagenet_lt(root: str) -> None:
    """Register ``imagenet_lt_{train,val,test}`` and ``imagenet_full_train``.

    Args:
        root: the folder that holds the data sets.
    """
    lists = {
        f"imagenet_lt_{split}": os.path.join(root, LISTS, f"ImageNet_LT_{split}.txt")
        for split in SIZES
    }
    for name, list_file in {**lists, FULL_TRAIN: full_train_list(root)}.items():
        verb = "makes it" if name == FULL_TRAIN else "says what belongs where"
        register_image_list(
            name,
            list_file,
            os.path.join(root, IMAGES),
            training_set="imagenet_lt_train",
            num_classes=NUM_CLASSES,
            every_class=name.endswith("_train"),
            hint=f"'{_COMMAND}' {verb}",
        )
