# SPDX-License-Identifier: Apache-2.0
"""Places-LT: 365 classes of Places, thinned to 4980 down to 5 training images.

    root/places365_standard/{train,val}/airfield/*.jpg
    root/Places_LT/Places_LT_{train,val,test}.txt

The folders are those of places365standard_easyformat.tar, the lists those of the data set's
authors. ``val`` is taken from the training images, ``test`` is the validation set of Places.
"""

import os

from longtail.data.datasets.image_list import register_image_list

IMAGES = "places365_standard"
LISTS = "Places_LT"
NUM_CLASSES = 365
SIZES = {"train": 62500, "val": 7300, "test": 36500}


def register_places_lt(root: str) -> None:
    """Register ``places_lt_{train,val,test}``.

    Args:
        root: the folder that holds the data sets.
    """
    for split in SIZES:
        register_image_list(
            f"places_lt_{split}",
            os.path.join(root, LISTS, f"Places_LT_{split}.txt"),
            os.path.join(root, IMAGES),
            training_set="places_lt_train",
            num_classes=NUM_CLASSES,
            every_class=split == "train",
            hint="'longtail prepare places_lt' says what belongs where",
        )
