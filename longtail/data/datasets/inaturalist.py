# SPDX-License-Identifier: Apache-2.0
"""iNaturalist 2018: 8142 species, 1000 down to 2 training images.

    root/inaturalist2018/train_val2018/*/*/*.jpg
    root/inaturalist2018/{train,val}2018.json

as train_val2018.tar.gz and {train,val}2018.json.tar.gz unpack there. Class indices follow the
ascending category ids.
"""

import os

from longtail.data.datasets.image_list import register_image_list
from longtail.data.formats.inaturalist import read_inaturalist

NAME = "inaturalist2018"
NUM_CLASSES = 8142
SIZES = {"train": 437513, "val": 24426}


def register_inaturalist(root: str) -> None:
    """Register ``inaturalist2018_{train,val}``.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, NAME)
    for split in SIZES:
        register_image_list(
            f"{NAME}_{split}",
            os.path.join(base, f"{split}2018.json"),
            base,
            training_set=f"{NAME}_train",
            num_classes=NUM_CLASSES,
            every_class=split == "train",
            hint=f"'longtail prepare {NAME}' says what belongs where",
            read=read_inaturalist,
        )
