# SPDX-License-Identifier: Apache-2.0
"""Reading COCO's JSON, with nothing of LVIS in it, as annotation tools write it.

What COCO's metrics need and such files often lack is completed: ``iscrowd`` is 0, ``area`` that of
the segmentation, or else of the box.
"""

import os
from dataclasses import replace

from pycocotools import mask as mask_util

from longtail.data.formats.lvis_checks import SHAPES
from longtail.data.formats.lvis_reader import LVISContent, read_lvis_json
from longtail.data.formats.lvis_shapes import Entry, has_segmentation, segmentation_rle

# What an image of LVIS says of the categories that are not annotated in it.
LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


def read_coco_json(
    path: str | os.PathLike, *, remedy: str = "correct the path of the annotations"
) -> LVISContent:
    """Read a file in COCO's format, check and complete it.

    Args:
        path: the file; one without the key ``annotations`` is a test set's.
        remedy: what to do if there is no such file, for the message.

    Returns:
        The entries; every annotation has an ``area`` and ``iscrowd``. Frequencies of categories
        are left out: here the training set tells them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as :func:`~longtail.data.formats.lvis_reader.read_lvis_json`; or the file is
            one of LVIS, which is annotated by other rules.
    """
    content = read_lvis_json(
        path, category_keys=("name",), annotation_keys=(SHAPES,), remedy=remedy
    )
    for image in content.images:
        if key := next((key for key in LVIS_KEYS if key in image), None):
            raise ValueError(
                f"{content.path}: image {image['id']} has {key!r}, so that this is a file in "
                "LVIS's format, which COCO's metrics misjudge: declare it with format: lvis"
            )
    for category in content.categories:
        for key in ("frequency", "image_count", "instance_count"):
            category.pop(key, None)
    if content.annotations is None:
        return content
    sizes = {image["id"]: (image["height"], image["width"]) for image in content.images}
    completed = [_completed(item, *sizes[item["image_id"]]) for item in content.annotations]
    return replace(content, annotations=completed)


def _completed(item: Entry, height: int, width: int) -> Entry:
    item.setdefault("iscrowd", 0)
    if "area" not in item:
        if has_segmentation(item):
            rle = segmentation_rle(item["segmentation"], height, width)
            item["area"] = float(mask_util.area(rle))
        else:
            item["area"] = float(item["bbox"][2] * item["bbox"][3])
    return item
