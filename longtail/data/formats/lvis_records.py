# SPDX-License-Identifier: Apache-2.0
"""From the content of a file in LVIS's format to detectron2's records."""

from collections.abc import Mapping
from typing import Any

from detectron2.structures import BoxMode

from longtail.data.formats.lvis_reader import Entry, LVISContent, compressed_rle
from longtail.data.formats.paths import path_below


def lvis_records(
    content: LVISContent, image_root: str, class_index: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Turn images and annotations into records.

    Args:
        content: read with the annotations' ``segmentation``.
        image_root: the folder that the names of the images are relative to. These are the last
            two parts of their ``coco_url`` (folder and file), or ``file_name`` where they have
            none. No image is opened.
        class_index: the class index of each category id.

    Returns:
        Records by image id: ``file_name``, ``height``, ``width``, ``image_id``,
        ``neg_category_ids`` and ``not_exhaustive_category_ids`` (ids of the file), and, except of
        a test set, ``annotations``: ``bbox`` in ``BoxMode.XYWH_ABS``, ``category_id`` (class
        index), ``segmentation`` (polygons, or RLE with compressed counts).

    Raises:
        ValueError: an image has neither of the two names, or an RLE is invalid. The message
            starts with the path of the file.
    """
    records = {image["id"]: _record(image, image_root, content.path) for image in content.images}
    if content.annotations is not None:
        for record in records.values():
            record["annotations"] = []
        for item in content.annotations:
            records[item["image_id"]]["annotations"].append(
                {
                    "bbox": item["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": class_index[item["category_id"]],
                    "segmentation": _segmentation(item, content.path),
                }
            )
    return list(records.values())


def _record(image: Entry, image_root: str, path: str) -> dict[str, Any]:
    if "coco_url" in image:
        # LVIS renamed COCO's images of 2014 to those of 2017: file_name may be an old one.
        parts = image["coco_url"].split("/")[-2:]
    elif "file_name" in image:
        parts = [image["file_name"]]
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


def _segmentation(item: Entry, path: str) -> list | Entry:
    shape = item["segmentation"]
    if isinstance(shape, list):
        return shape
    try:
        return compressed_rle(shape)  # the mapper decodes no others
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: annotation {item['id']} has an invalid RLE ({error})") from None
