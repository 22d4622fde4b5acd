# SPDX-License-Identifier: Apache-2.0
"""COCO-Stuff: the 182 numbers of the release become the 171 class indices.

164K ships PNG files with the numbers lowered by one and 255 for unlabeled; 10K ships Matlab files
with the numbers themselves and 0 for unlabeled.
"""

import os

import numpy as np

from longtail.data.datasets import coco_stuff
from longtail.data.prepare.labels import read_png
from longtail.data.prepare.recipe import (
    IGNORE,
    Recipe,
    SourceError,
    Split,
    label_table,
    listed_splits,
)


def read_mat(path: str) -> np.ndarray:
    """Read the label map ``S`` of a Matlab file.

    Args:
        path: the file.

    Returns:
        (H, W) int32.

    Raises:
        SourceError: there is no variable ``S``, or it is not a label map.
        Exception: whatever SciPy raises for a broken file.
    """
    import scipy.io  # takes a while, for one data set

    content = scipy.io.loadmat(path, variable_names=["S"])
    if "S" not in content:
        raise SourceError(f"{path}: no variable S")
    stored = content["S"]
    labels = stored.astype(np.int32)
    if labels.ndim != 2 or not np.array_equal(labels, stored):
        raise SourceError(f"{path}: variable S is not a map of whole numbers")
    return labels


def _splits_164k(source: str, root: str) -> list[Split]:
    splits = []
    for name, folder in coco_stuff.SPLITS_164K.items():
        images, label_target = coco_stuff.image_and_label_folders_164k(root, name)
        splits.append(
            Split(
                name=name,
                # The archive has no images: they are COCO's, wherever the labels are.
                images=images,
                labels=os.path.join(source, folder),
                image_target=images,
                label_target=label_target,
                image_archive=f"COCO's {folder}.zip",
            )
        )
    return splits


def _splits_10k(source: str, root: str) -> list[Split]:
    return listed_splits(
        coco_stuff.SPLITS_10K,
        source,
        os.path.join(root, coco_stuff.NAME_10K),
        labels="annotations",
        targets=coco_stuff.image_and_label_folders_10k(root),
        list_file=coco_stuff.image_list_10k,
    )


_INDEX_OF = {number: index for index, number in enumerate(coco_stuff.RELEASE_IDS)}
_REMOVED = ", ".join(str(number) for number in sorted(coco_stuff.REMOVED_IDS))
_REMOVED_LOWERED = ", ".join(str(number - 1) for number in sorted(coco_stuff.REMOVED_IDS))

COCO_STUFF_164K = Recipe(
    name="coco_stuff_164k",
    source=os.path.join(coco_stuff.NAME_164K, "stuffthingmaps"),
    archive="stuffthingmaps_trainval2017.zip",
    splits=_splits_164k,
    label_suffix=".png",
    read=read_png,
    table=label_table({**{n - 1: index for n, index in _INDEX_OF.items()}, IGNORE: IGNORE}),
    values=f"0 to 181 without {_REMOVED_LOWERED}, or 255 (unlabeled)",
)

COCO_STUFF_10K = Recipe(
    name="coco_stuff_10k",
    source=coco_stuff.NAME_10K,
    archive="cocostuff-10k-v1.1.zip",
    splits=_splits_10k,
    label_suffix=".mat",
    read=read_mat,
    table=label_table({**_INDEX_OF, 0: IGNORE}),
    values=f"0 (unlabeled) to 182 without {_REMOVED}",
)
