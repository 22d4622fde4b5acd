# SPDX-License-Identifier: Apache-2.0
"""Clothing Co-Parsing: label maps as PNG files, 0..58, which stay as they are."""

import os

from longtail.data.datasets import ccp
from longtail.data.prepare.labels import read_png
from longtail.data.prepare.recipe import Recipe, Split, label_table


def _splits(source: str, root: str) -> list[Split]:
    image_target, label_target = ccp.image_and_label_folders(root)
    return [
        Split(
            name=name,
            images=os.path.join(source, "images"),
            labels=os.path.join(source, "labels"),
            image_target=image_target,
            label_target=label_target,
            names=ccp.image_list(source, name),
            names_target=ccp.image_list(os.path.join(root, ccp.NAME), name),
        )
        for name in ccp.SPLITS
    ]


CCP = Recipe(
    name="ccp",
    source=ccp.NAME,
    archive="the folder with images/ID.jpg, labels/ID.png and {train,val,test}.txt",
    splits=_splits,
    label_suffix=".png",
    read=read_png,
    table=label_table({index: index for index in range(len(ccp.CLASSES))}),
    values="0 to 58",
)
