# SPDX-License-Identifier: Apache-2.0
"""Generated scenes of scikit-learn's handwritten digits on textures, with a long tail.

root/digit_scenes/images/{train,val,test}/*.png
root/digit_scenes/labels/{train,val,test}/*.png, values 0..9, and 10 for the ground
"""

import os

from longtail.data.datasets.register import register_sem_seg
from longtail.data.formats.generated import DIGIT_CLASSES, DIGIT_SPLITS, digit_folders, read_meta

NAME = "digit_scenes"
# Ten that are easily told apart, and grey for the ground.
COLORS = (
    *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)),
    *((140, 86, 75), (227, 119, 194), (255, 221, 0), (23, 190, 207), (190, 255, 100)),
    (127, 127, 127),
)


def register_digit_scenes(root: str) -> None:
    """Register ``digit_scenes_sem_seg_{train,val,test}``.

    Head, body and tail are thirds of the classes by training scenes, which the seed decides: they
    are those of ``root/digit_scenes/meta.json``; without it, there are no groups.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, NAME)
    groups = (read_meta(base) or {}).get("class_groups")
    for split in DIGIT_SPLITS:
        images, labels = digit_folders(base, split)
        register_sem_seg(
            f"{NAME}_sem_seg_{split}",
            images,
            labels,
            DIGIT_CLASSES,
            colors=COLORS,
            class_groups=groups,
            hint="make it with: longtail generate --digits",
        )
