# SPDX-License-Identifier: Apache-2.0
"""COCO-Stuff 164K and 10K: 80 things and 91 kinds of stuff.

The release numbers its classes 1..182 (0: unlabeled), of which eleven, dropped from COCO, never
occur. Class indices 0..170 are these numbers in order, without the eleven.
"""

import os

from longtail.data.datasets.register import register_sem_seg

# street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush
REMOVED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
# The release's number of class index 0, 1, ..., 170.
RELEASE_IDS = [number for number in range(1, 183) if number not in REMOVED_IDS]

_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
    vase, scissors, teddy bear, hair drier, toothbrush,
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
    ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
    dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower,
    fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves,
    light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
    plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug,
    salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
    structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete,
    wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind,
    window-other, wood
"""
CLASSES = [name.strip() for name in _NAMES.split(",")]

# Split -> name of its folders.
SPLITS_164K = {"train": "train2017", "val": "val2017"}
SPLITS_10K = ("train", "test")
NAME_164K = "coco"
NAME_10K = "coco_stuff10k"


def image_and_label_folders_164k(root: str, split: str) -> tuple[str, str]:
    """Name the folders of the images and label maps of a split of COCO-Stuff 164K.

    Args:
        root: the folder that holds the data sets.
        split: ``"train"`` or ``"val"``.

    Returns:
        The folder of COCO's images and that of the label maps (values 0..170 and 255).
    """
    base, folder = os.path.join(root, NAME_164K), SPLITS_164K[split]
    return os.path.join(base, folder), os.path.join(base, "stuffthingmaps_detectron2", folder)


def image_and_label_folders_10k(root: str) -> tuple[str, str]:
    """Name the folders of the images and label maps of COCO-Stuff 10K, which all splits share.

    Args:
        root: the folder that holds the data sets.

    Returns:
        The folder of the images and that of the label maps (values 0..170 and 255).
    """
    base = os.path.join(root, NAME_10K)
    return os.path.join(base, "images"), os.path.join(base, "annotations_detectron2")


def image_list_10k(base: str, split: str) -> str:
    """Name the text file that lists the images of a split.

    Args:
        base: the folder of COCO-Stuff 10K.
        split: ``"train"`` or ``"test"``.
    """
    return os.path.join(base, "imageLists", f"{split}.txt")


def register_coco_stuff(root: str) -> None:
    """Register ``coco_stuff_164k_sem_seg_{train,val}`` and ``coco_stuff_10k_sem_seg_{train,test}``.

    Args:
        root: the folder that holds the data sets.
    """
    for split in SPLITS_164K:
        images, labels = image_and_label_folders_164k(root, split)
        register_sem_seg(
            f"coco_stuff_164k_sem_seg_{split}",
            images,
            labels,
            CLASSES,
            hint="make it with: longtail prepare coco_stuff_164k",
        )
    for split in SPLITS_10K:
        images, labels = image_and_label_folders_10k(root)
        register_sem_seg(
            f"coco_stuff_10k_sem_seg_{split}",
            images,
            labels,
            CLASSES,
            file_names=image_list_10k(os.path.join(root, NAME_10K), split),
            hint="make it with: longtail prepare coco_stuff_10k",
        )
