# SPDX-License-Identifier: Apache-2.0
"""Generated data: scenes of textures and shapes, and images of one object each."""

import os

from longtail.data.datasets.image_list import register_image_list
from longtail.data.datasets.register import register_sem_seg
from longtail.data.formats.generated import (
    LT_NUM_CLASSES,
    LT_SHAPES,
    LT_SPLITS,
    NUM_CLASSES,
    SPLITS,
    object_classes,
    read_meta,
    scene_classes,
    split_folders,
    split_list,
)
from longtail.data.statistics.groups import thirds_by_rank

NAME = "synthetic"
LT_NAME = "synthetic_lt"


def register_synthetic(root: str) -> None:
    """Register ``synthetic_sem_seg_{train,val}``, with the classes in head, body and tail.

    Class names and groups are those of ``root/synthetic/meta.json``; of the default
    configuration as long as nothing is generated. Call it again after generating another number
    of classes in the same process.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, NAME)
    described = read_meta(base) or {
        "classes": scene_classes(NUM_CLASSES),
        "class_groups": thirds_by_rank(range(NUM_CLASSES)),
    }
    for split in SPLITS:
        images, labels = split_folders(base, split)
        register_sem_seg(
            f"synthetic_sem_seg_{split}",
            images,
            labels,
            described["classes"],
            class_groups=described["class_groups"],
            hint="make it with: longtail generate",
        )


def register_synthetic_lt(root: str) -> None:
    """Register ``synthetic_lt_{train,val,test,balanced}``.

    The classes are those of ``root/synthetic_lt/meta.json``; of the default configuration as long
    as nothing is generated. Call it again after generating another number of classes in the same
    process.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, LT_NAME)
    classes = (read_meta(base) or {}).get("classes") or object_classes(LT_NUM_CLASSES, LT_SHAPES)
    for split in LT_SPLITS:
        register_image_list(
            f"{LT_NAME}_{split}",
            split_list(base, split),
            base,
            training_set=f"{LT_NAME}_train",
            classes=classes,
            every_class=split in ("train", "balanced"),
            hint="make it with: longtail generate --classification",
        )
