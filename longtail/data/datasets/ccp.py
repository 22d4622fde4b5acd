# SPDX-License-Identifier: Apache-2.0
"""Clothing Co-Parsing (CCP): 1,004 street photographs with every pixel labelled, 59 classes.

Most pixels are "null", whatever is neither person nor garment; it is a class like the others. The
authors have published no split; that of the lists that come with the label maps is used.

root/ccp/images/<id>.jpg
root/ccp/labels/<id>.png, values 0..58
root/ccp/{train,val,test}.txt, an id a line
root/ccp/instances_{train,val,test}.json, garments as objects in LVIS's format, masks as RLE: ids 1
to 52 are the classes that occur, in their order, without null, skin and hair
"""

import os

from longtail.data.datasets.lvis import register_lvis_instances
from longtail.data.datasets.register import register_sem_seg
from longtail.data.statistics.groups import frequency_groups

NAME = "ccp"
SPLITS = ("train", "val", "test")
# fmt: off
CLASSES = [
    "null", "accessories", "bag", "belt", "blazer", "blouse", "bodysuit", "boots", "bra",
    "bracelet", "cape", "cardigan", "clogs", "coat", "dress", "earrings", "flats", "glasses",
    "gloves", "hair", "hat", "heels", "hoodie", "intimate", "jacket", "jeans", "jumper", "leggings",
    "loafers", "necklace", "panties", "pants", "pumps", "purse", "ring", "romper", "sandals",
    "scarf", "shirt", "shoes", "shorts", "skin", "skirt", "sneakers", "socks", "stockings", "suit",
    "sunglasses", "sweater", "sweatshirt", "swimwear", "t-shirt", "tie", "tights", "top", "vest",
    "wallet", "watch", "wedges",
]
# Images of the training split that show the class; four classes are in no image at all.
TRAIN_IMAGES = (
    704, 152, 309, 135, 67, 154, 6, 40, 1, 55, 18, 9, 0, 154, 189, 1, 7, 14, 11, 678, 76, 13, 1, 0,
    51, 109, 15, 33, 16, 25, 0, 209, 9, 159, 6, 18, 47, 52, 126, 544, 41, 704, 117, 9, 43, 64, 63,
    209, 83, 30, 0, 68, 15, 6, 39, 41, 16, 24, 1,
)
# fmt: on
OBJECTS = [
    name
    for name, count in zip(CLASSES, TRAIN_IMAGES, strict=True)
    if count and name not in ("null", "skin", "hair")
]


def image_and_label_folders(root: str) -> tuple[str, str]:
    """Name the folders of the images and label maps, which all splits share.

    Args:
        root: the folder that holds the data sets.

    Returns:
        The folder of the images and that of the label maps (values 0..58).
    """
    base = os.path.join(root, NAME)
    return os.path.join(base, "images"), os.path.join(base, "labels_detectron2")


def image_list(base: str, split: str) -> str:
    """Name the text file that lists the images of a split.

    Args:
        base: the folder of the data set.
        split: ``"train"``, ``"val"`` or ``"test"``.
    """
    return os.path.join(base, f"{split}.txt")


def annotation_file(base: str, split: str) -> str:
    """Name the file with the objects of a split.

    Args:
        base: the folder of the data set.
        split: ``"train"``, ``"val"`` or ``"test"``.
    """
    return os.path.join(base, f"instances_{split}.json")


def register_ccp(root: str) -> None:
    """Register ``ccp_sem_seg_{train,val,test}``, and ``ccp_{train,val,test}`` in LVIS's format.

    The classes are rare, common and frequent as LVIS's, by training images: up to 10, up to 100,
    more.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, NAME)
    images, labels = image_and_label_folders(root)
    hint = "make it with: longtail prepare ccp --source CCP_FOLDER"
    for split in SPLITS:
        register_sem_seg(
            f"ccp_sem_seg_{split}",
            images,
            labels,
            CLASSES,
            class_groups=frequency_groups(TRAIN_IMAGES),
            file_names=image_list(base, split),
            hint=hint,
        )
        register_lvis_instances(
            f"ccp_{split}",
            annotation_file(base, split),
            images,
            metadata={"thing_classes": OBJECTS},
            hint=hint,
        )
