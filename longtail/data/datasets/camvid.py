# SPDX-License-Identifier: Apache-2.0
"""CamVid: street scenes with 11 classes, in the split that SegNet's authors published."""

import os

from longtail.data.datasets.register import register_sem_seg

CLASSES = [
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
]
COLORS = [
    [128, 128, 128],
    [128, 0, 0],
    [192, 192, 128],
    [128, 64, 128],
    [0, 0, 192],
    [128, 128, 0],
    [192, 128, 128],
    [64, 64, 128],
    [64, 0, 128],
    [64, 64, 0],
    [0, 128, 192],
]

SPLITS = ("train", "val", "test")
NAME = "camvid"


def image_and_label_folders(root: str, split: str) -> tuple[str, str]:
    """Name the folders in which images and label maps of a split are expected.

    Args:
        root: the folder that holds the data sets.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        The folder of the images and that of the label maps (values 0..10 and 255).
    """
    base = os.path.join(root, NAME)
    return os.path.join(base, split), os.path.join(base, f"{split}annot_detectron2")


def register_camvid(root: str) -> None:
    """Register ``camvid_sem_seg_{train,val,test}``.

    Args:
        root: the folder that holds the data sets.
    """
    for split in SPLITS:
        images, labels = image_and_label_folders(root, split)
        register_sem_seg(
            f"camvid_sem_seg_{split}",
            images,
            labels,
            CLASSES,
            colors=COLORS,
            hint="make it with: longtail prepare camvid --source CAMVID_FOLDER",
        )
