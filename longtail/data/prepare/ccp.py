# SPDX-License-Identifier: Apache-2.0
"""Clothing Co-Parsing: label maps as PNG files, 0..58, which stay as they are."""

import os

from longtail.data.datasets import ccp
from longtail.data.prepare.labels import read_png
from longtail.data.prepare.recipe import Recipe, Split, label_table, listed_splits


def _splits(source: str, root: str) -> list[Split]:
    return listed_splits(
        ccp.SPLITS,
        source,
        os.path.join(root, ccp.NAME),
        labels="labels",
        targets=ccp.image_and_label_folders(root),
        list_file=ccp.image_list,
    )


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
