# SPDX-License-Identifier: Apache-2.0
"""IoTKITs-LT: photographs of microcontroller boards with polygons, 32 classes, a long tail.

Training images are thinned to a long tail, 80 to 2 images a class; validation is balanced. The
category ids are the ranks of the classes in that tail. One is off: without the near twins of
validation images ESP32, the 10th, has 12 images left and not the 27 of its rank. The rare, common
and frequent categories are the files' own, by training images: up to 5, up to 20, more (LVIS: 10
and 100).

root/iotkits_lt/{train,val}/<number>.jpg, 640 x 640 pixels
root/iotkits_lt/instances_{train,val}.json, in LVIS's format
root/iotkits_lt/instances_{fit,held_out}.json, two parts of train, for choices that must not see val
"""

import os

from longtail.data.datasets.lvis import register_lvis_instances

NAME = "iotkits_lt"
# Split: the folder of its images.
SPLITS = {"train": "train", "val": "val", "fit": "train", "held_out": "train"}
CLASSES = [
    "Arduino-Zero",
    "Raspberry-Pi-3-B",
    "Arduino-ProMini",
    "Arduino Mega 2560 -Yellow-",
    "Jetson TX2",
    "Esp8266",
    "Raspberry-Pi-Zero-WH",
    "Raspberry-Pi-Zero-2-W",
    "Raspberry-Pi-2-B",
    "ESP32",
    "Raspberry-Pi-5",
    "Arduino Uno Camera Shield",
    "Raspberry Pi 1 B-",
    "Arduino-Micro",
    "TelosB",
    "Raspberry-Pi-Zero",
    "Raspberry-Pi-4-B",
    "Arduino Mega 2560 -Blue-",
    "Wemos",
    "Arduino Uno WiFi Shield",
    "Arduino Uno -Green-",
    "Raspberry Pi 3 B-",
    "STM32",
    "Raspberry-Pi-1-A-",
    "Arduino-Nano",
    "Arduino-Due",
    "Raspberry-Pi-Zero-W",
    "Arduino Uno -Black-",
    "Arduino Mega 2560 -Black-",
    "Raspberry-Pi-3-A-",
    "Jetson Nano",
    "Arduino-leonardo",
]


def annotation_file(base: str, split: str) -> str:
    """Name the annotations of a split.

    Args:
        base: the folder of the data set.
        split: one of :data:`SPLITS`.
    """
    return os.path.join(base, f"instances_{split}.json")


def image_folder(base: str, split: str) -> str:
    """Name the folder of the images of a split.

    Args:
        base: the folder of the data set.
        split: one of :data:`SPLITS`.
    """
    return os.path.join(base, SPLITS[split])


def register_iotkits_lt(root: str) -> None:
    """Register ``iotkits_lt_{train,val,fit,held_out}``, evaluated as LVIS is.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, NAME)
    for split in SPLITS:
        register_lvis_instances(
            f"{NAME}_{split}",
            annotation_file(base, split),
            image_folder(base, split),
            metadata={"thing_classes": list(CLASSES)},
            hint="make it with: longtail prepare iotkits_lt --source FOLDER",
        )
