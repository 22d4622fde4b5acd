# SPDX-License-Identifier: Apache-2.0
"""ADE20K SceneParsing: detectron2's registration, completed by colours and class groups."""

import os
from collections.abc import Callable
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog

# Red, green and blue of the 150 classes, the palette that MIT CSAIL publishes with the data.
# Class 6 (road) and class 48 (skyscraper) share one there.
_COLORS = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07
    96053d 787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff
    ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff
    e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff
    8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00
    0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014
    ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff
    00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff
    ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff
    ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff
    b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
COLORS = [list(bytes.fromhex(color)) for color in _COLORS.split()]

# DisAlign, Table 16: class indices by their share of pixels.
CLASS_GROUPS = {
    "head": list(range(20)),
    "body": list(range(20, 75)),
    "tail": list(range(75, 150)),
}

FOLDERS = {"train": "training", "val": "validation"}
NAME = "ADEChallengeData2016"


def image_and_label_folders(root: str, split: str) -> tuple[str, str]:
    """Name the folders in which detectron2 expects images and label maps.

    Args:
        root: the folder that holds the data sets.
        split: ``"train"`` or ``"val"``.

    Returns:
        The folder of the images and that of the label maps (values 0..149 and 255).
    """
    base, folder = os.path.join(root, NAME), FOLDERS[split]
    return (
        os.path.join(base, "images", folder),
        os.path.join(base, "annotations_detectron2", folder),
    )


def complete_ade20k() -> None:
    """Complete detectron2's ``ade20k_sem_seg_{train,val}``.

    They get ``stuff_colors`` and ``class_groups``; what is already set, by the user or by another
    version of detectron2, stays. And a missing folder is an error that says how to make it.
    """
    for split in FOLDERS:
        name = f"ade20k_sem_seg_{split}"
        load = DatasetCatalog[name]
        if not isinstance(load, partial) or load.func is not _load_with_hint:
            DatasetCatalog.remove(name)
            DatasetCatalog.register(name, partial(_load_with_hint, name, load))
        metadata = MetadataCatalog.get(name)
        for key, value in (("stuff_colors", COLORS), ("class_groups", CLASS_GROUPS)):
            if metadata.get(key) is None:
                setattr(metadata, key, value)


def _load_with_hint(name: str, load: Callable[[], list[dict]]) -> list[dict]:
    try:
        return load()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: {error.filename} is missing; unpack ADEChallengeData2016 under "
            "DETECTRON2_DATASETS, then run: longtail prepare ade20k"
        ) from None
