# SPDX-License-Identifier: Apache-2.0
"""From the content of a file in LVIS's format to detectron2's records."""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n

from longtail.data.formats.lvis_reader import LVISContent
from longtail.data.formats.lvis_shapes import Entry, compressed_rle, has_segmentation
from longtail.data.formats.paths import path_below


def lvis_records(
    content: LVISContent,
    image_root: str,
    class_index: Mapping[int, int],
    by_file_name: bool = False,
) -> list[dict[str, Any]]:
    """Turn images and annotations into records.

    Args:
        content: read with the annotations' segmentations, if any.
        image_root: the folder that the names of the images are relative to. These are the last
            two parts of their ``coco_url`` (folder and file), or ``file_name`` where they have
            none. No image is opened.
        class_index: the class index of each category id.
        by_file_name: take ``file_name`` first, as data of one's own have it.

    Returns:
        Records by image id: ``file_name``, ``height``, ``width``, ``image_id``,
        ``neg_category_ids`` and ``not_exhaustive_category_ids`` (ids of the file), and, except of
        a test set, ``annotations``: ``bbox`` in ``BoxMode.XYWH_ABS``, ``category_id`` (class
        index), ``segmentation`` (polygons, or RLE with compressed counts) where there is one, and
        ``iscrowd`` where it is 1: groups, which are neither counted nor trained on. Annotations
        whose boxes are empty are left out; the log says how many.

    Raises:
        ValueError: an image has neither of the two names. The message starts with the path of the
            file.
    """
    records = {
        image["id"]: _record(image, image_root, content.path, by_file_name)
        for image in content.images
    }
    if content.annotations is not None:
        for record in records.values():
            record["annotations"] = []
        empty = 0
        for item in content.annotations:
            if not (item["bbox"][2] and item["bbox"][3]):
                empty += 1
                continue
            instances = records[item["image_id"]]["annotations"]
            instances.append(_instance(item, class_index[item["category_id"]]))
        _report(content, empty)
    return list(records.values())


def _record(image: Entry, image_root: str, path: str, by_file_name: bool) -> dict[str, Any]:
    url, name = image.get("coco_url"), image.get("file_name")
    if by_file_name and isinstance(name, str) and name:
        url = None
    if isinstance(url, str) and url:
        # LVIS renamed COCO's images of 2014 to those of 2017: file_name may be an old one.
        parts = url.split("/")[-2:]
    elif isinstance(name, str) and name:
        parts = [name]
    else:
        raise ValueError(f"{path}: image {image['id']} has neither coco_url nor file_name")
    return {
        "file_name": path_below(image_root, "/".join(parts), f"{path}: image {image['id']}"),
        "height": image["height"],
        "width": image["width"],
        "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
        "neg_category_ids": image.get("neg_category_ids", []),
        "image_id": image["id"],
    }


def _instance(item: Entry, class_index: int) -> Entry:
    instance = {
        "bbox": item["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": class_index,
    }
    if has_segmentation(item):
        shape = item["segmentation"]
        # Compressed: the mapper decodes no other RLE.
        instance["segmentation"] = shape if isinstance(shape, list) else compressed_rle(shape)
    if item.get("iscrowd", 0):
        instance["iscrowd"] = 1
    return instance


def _report(content: LVISContent, empty: int) -> None:
    crowds = sum(bool(item.get("iscrowd", 0)) for item in content.annotations)
    left_out = [
        f"{count} {what}"
        for count, what in ((empty, "with an empty box"), (crowds, "of crowds"))
        if count
    ]
    if left_out:
        # Once: a run reads the file for its statistics, too.
        log_first_n(
            logging.WARNING,
            f"{content.path}: of {len(content.annotations)} annotations {' and '.join(left_out)} "
            "are left out",
            key="message",
        )
