# SPDX-License-Identifier: Apache-2.0
"""ADE20K SceneParsing: 0 (other) becomes 255, 1..150 become 0..149."""

import os

from longtail.data.datasets import ade20k
from longtail.data.prepare.labels import read_png
from longtail.data.prepare.recipe import IGNORE, Recipe, Split, label_table


def _splits(source: str, root: str) -> list[Split]:
    splits = []
    for name, folder in ade20k.FOLDERS.items():
        image_target, label_target = ade20k.image_and_label_folders(root, name)
        splits.append(
            Split(
                name=name,
                images=os.path.join(source, "images", folder),
                labels=os.path.join(source, "annotations", folder),
                image_target=image_target,
                label_target=label_target,
            )
        )
    return splits


ADE20K = Recipe(
    name="ade20k",
    source=ade20k.NAME,
    archive="ADEChallengeData2016.zip",
    splits=_splits,
    label_suffix=".png",
    read=read_png,
    table=label_table({0: IGNORE, **{value: value - 1 for value in range(1, 151)}}),
    values="0 (other) to 150",
)
