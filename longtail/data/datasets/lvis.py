"""LVIS and data sets in its JSON format.

Registered here: detectron2's ``lvis_v1_*`` and ``lvis_v0.5_*``, the generated
``lvis_synthetic_{train,val}``, and ``lvis_camvid_{train,val}``, the objects of CamVid.

The records are those of detectron2's own loader, without its need for the ``lvis`` package; in
addition, segmentations may be RLE, and what is wrong with a file is said in one line.

Category ids of LVIS start at 1, class indices at 0: index = id - 1, unless the metadata hold
``thing_dataset_id_to_contiguous_id``.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin import _PREDEFINED_SPLITS_LVIS
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from longtail.data.datasets import camvid
from longtail.data.datasets.register import PathLike, replace_registration
from longtail.data.formats.generated import (
    LVIS_NUM_CLASSES,
    annotation_file,
    num_stuff,
    read_meta,
    scene_classes,
)

SYNTHETIC = "lvis_synthetic"
# Classes of CamVid whose connected regions are objects, in the order of their category ids.
CAMVID_OBJECTS = ("Pole", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")

_HINT = "take it from lvisdataset.org; 'longtail prepare lvis' says what belongs where"
_IMAGE_KEYS = ("id", "height", "width")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "segmentation")


def register_lvis(root: str) -> None:
    """Register detectron2's LVIS data sets with the loader of this module.

    Names and metadata are detectron2's: ``lvis_v1_{train,val,...}``, ``lvis_v0.5_{train,val,...}``.

    Args:
        root: the folder that holds the data sets: ``root/lvis/*.json`` and ``root/coco``.
    """
    for version, splits in _PREDEFINED_SPLITS_LVIS.items():
        metadata = get_lvis_instances_meta(version)
        for name, (image_root, json_file) in splits.items():
            register_lvis_instances(
                name,
                os.path.join(root, json_file),
                os.path.join(root, image_root),
                metadata=metadata,
                hint=_HINT,
            )


def register_lvis_synthetic(root: str) -> None:
    """Register the generated ``lvis_synthetic_{train,val}``.

    The classes are those of ``root/lvis_synthetic/meta.json``; of the default configuration as
    long as nothing is generated. Call it again after generating another number of classes in the
    same process.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, SYNTHETIC)
    default = scene_classes(LVIS_NUM_CLASSES)[num_stuff(LVIS_NUM_CLASSES) :]
    classes = (read_meta(base) or {}).get("categories") or default
    for split in ("train", "val"):
        register_lvis_instances(
            f"lvis_synthetic_{split}",
            annotation_file(base, split),
            os.path.join(base, "images"),
            metadata={"thing_classes": classes},
            hint="make it with: longtail generate --lvis",
        )


def register_lvis_camvid(root: str) -> None:
    """Register ``lvis_camvid_{train,val}``, the objects of CamVid.

    Args:
        root: the folder that holds the data sets.
    """
    for split in ("train", "val"):
        register_lvis_instances(
            f"lvis_camvid_{split}",
            camvid_annotation_file(root, split),
            os.path.join(root, camvid.NAME),
            metadata={"thing_classes": list(CAMVID_OBJECTS)},
            hint="make it with: longtail prepare camvid_instances",
        )


def camvid_annotation_file(root: str, split: str) -> str:
    """Where the objects of a split of CamVid are expected, ``"train"`` or ``"val"``."""
    return os.path.join(root, camvid.NAME, f"lvis_camvid_{split}.json")


def register_lvis_instances(
    name: str,
    json_file: PathLike,
    image_root: PathLike,
    *,
    metadata: Mapping[str, Any] | None = None,
    hint: str = "",
) -> None:
    """Register a data set in LVIS's JSON format, evaluated as LVIS is.

    Nothing is read before the data set is first used. A data set of the same name is replaced.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        json_file: the annotations.
        image_root: the folder under which the images lie, see :func:`load_lvis_json`.
        metadata: further attributes, such as ``thing_classes`` (K names by category id). Without
            them the file's own categories are the classes, known once it is loaded.
        hint: how to make what is missing, for the error messages.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    attributes = {"json_file": json_file, "image_root": image_root, "evaluator_type": "lvis"}
    load = partial(load_lvis_json, json_file, image_root, name, hint=hint)
    replace_registration(name, load, {**attributes, **(metadata or {})})


def load_lvis_json(
    json_file: PathLike, image_root: PathLike, dataset_name: str, *, hint: str = ""
) -> list[dict[str, Any]]:
    """Read annotations in LVIS's JSON format.

    Args:
        json_file: the annotations. Images are named by the last two parts of their ``coco_url``
            (folder and file), or by ``file_name`` where they have none. A file without
            ``annotations``, such as those of the test sets, gives records without them.
        image_root: the folder that these names are relative to. No image is opened.
        dataset_name: the registered name. Its metadata say which classes there are; if they do
            not, ``thing_classes`` (and ``thing_dataset_id_to_contiguous_id``, where the ids are
            not 1 to K) are set from the file.
        hint: how to make the file, for the error messages.

    Returns:
        Records in detectron2's format, sorted by image id: ``file_name``, ``height``, ``width``,
        ``image_id``, ``neg_category_ids`` and ``not_exhaustive_category_ids`` (ids of the file,
        from 1), and ``annotations``: ``bbox`` in ``BoxMode.XYWH_ABS``, ``category_id`` (class
        index, from 0), ``segmentation`` (polygons, or RLE with compressed counts, which needs
        ``INPUT.MASK_FORMAT: bitmask``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short or no JSON, lacks a key, or has an annotation of an unknown
            image or category, or with an invalid box, polygon or RLE.
    """
    content = _read(os.fspath(json_file), dataset_name, hint)
    try:
        return _records(content, os.fspath(image_root), dataset_name)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{dataset_name}: {json_file}: {error}") from None


def _read(json_file: str, dataset_name: str, hint: str) -> dict[str, Any]:
    remedy = hint or "correct the path with which the data set was registered"
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{dataset_name}: {json_file} is missing; {remedy}") from None
    except ValueError as error:
        raise ValueError(
            f"{dataset_name}: {json_file} is cut short or no JSON ({error}); make or fetch it again"
        ) from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{dataset_name}: {json_file} holds a {kind}, expected LVIS's object")
    return content


def _records(content: dict[str, Any], image_root: str, dataset_name: str) -> list[dict[str, Any]]:
    for key in ("images", "categories", *(["annotations"] if "annotations" in content else [])):
        if not isinstance(content.get(key), list):
            raise ValueError(f"no list under the key {key!r}: this is no file of LVIS's format")
    indices = _class_indices(content["categories"], dataset_name)
    records: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        _require(image, _IMAGE_KEYS, "image")
        if image["id"] in records:
            raise ValueError(f"two images have the id {image['id']}")
        records[image["id"]] = _record(image, image_root)
    if "annotations" in content:
        for record in records.values():
            record["annotations"] = []
        _add_annotations(content["annotations"], records, indices)
    return [records[image_id] for image_id in sorted(records)]


def _class_indices(categories: list[dict], dataset_name: str) -> dict[int, int]:
    """The class index of each category id; a data set without class names gets them here."""
    for category in categories:
        _require(category, ("id", "name"), "category")
    names = {category["id"]: category["name"] for category in categories}
    if len(names) != len(categories):
        raise ValueError("two categories have the same id")
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("thing_classes") is None:
        metadata.set(thing_classes=[names[i] for i in sorted(names)])
        if sorted(names) != list(range(1, len(names) + 1)):
            mapping = {number: index for index, number in enumerate(sorted(names))}
            metadata.set(thing_dataset_id_to_contiguous_id=mapping)
    indices = metadata.get("thing_dataset_id_to_contiguous_id")
    if indices is None:
        indices = {index + 1: index for index in range(len(metadata.thing_classes))}
    if names.keys() != indices.keys():
        raise ValueError(
            f"{len(names)} categories, but the data set is registered with {len(indices)} (ids "
            f"{min(indices)} to {max(indices)}): the file is another's, or was made afterwards"
        )
    return indices


def _record(image: dict[str, Any], image_root: str) -> dict[str, Any]:
    if "coco_url" in image:
        # LVIS renamed COCO's images of 2014 to those of 2017: file_name may be an old one.
        parts = image["coco_url"].split("/")[-2:]
    elif "file_name" in image:
        parts = [image["file_name"]]
    else:
        raise ValueError(f"image {image['id']} has neither coco_url nor file_name")
    return {
        "file_name": os.path.join(image_root, *parts),
        "height": image["height"],
        "width": image["width"],
        "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
        "neg_category_ids": image.get("neg_category_ids", []),
        "image_id": image["id"],
    }


def _add_annotations(
    annotations: list[dict], records: dict[Any, dict], indices: Mapping[int, int]
) -> None:
    seen = set()
    for item in annotations:
        _require(item, _ANNOTATION_KEYS, "annotation")
        if item["id"] in seen:
            raise ValueError(f"two annotations have the id {item['id']}")
        seen.add(item["id"])
        for key, known in (("image_id", records), ("category_id", indices)):
            if item[key] not in known:
                raise ValueError(
                    f"annotation {item['id']} has the unknown {key} {item[key]}: images, "
                    "categories and annotations must come from one file"
                )
        record = records[item["image_id"]]
        if not _is_box(item["bbox"]):
            raise ValueError(
                f"annotation {item['id']} has the bbox {item['bbox']}, expected [x, y, w, h]"
            )
        record["annotations"].append(
            {
                "bbox": item["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": indices[item["category_id"]],
                "segmentation": _segmentation(item, record),
            }
        )


def _segmentation(item: dict[str, Any], record: dict[str, Any]) -> list | dict:
    shape = item["segmentation"]
    if isinstance(shape, dict):
        size = [record["height"], record["width"]]
        if not isinstance(shape.get("counts"), (str, list)) or shape.get("size") != size:
            raise ValueError(
                f"annotation {item['id']} has an RLE without counts or of another size than its "
                f"image, {size} (height, width)"
            )
        # The mapper only decodes compressed counts.
        compressed = isinstance(shape["counts"], str)
        return shape if compressed else mask_util.frPyObjects(shape, *size)
    if not isinstance(shape, list) or not shape or not all(_is_polygon(part) for part in shape):
        raise ValueError(
            f"annotation {item['id']} has an invalid polygon: expected at least one list "
            "[x1, y1, x2, y2, ...] of 3 points or more"
        )
    return shape


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and all(isinstance(value, (int, float)) for value in box)
    return numbers and len(box) == 4 and box[2] >= 0 and box[3] >= 0


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0


def _require(item: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(item, dict):
        raise ValueError(f"an entry among the {what} entries is no object: {item!r:.40}")
    for key in keys:
        if key not in item:
            raise ValueError(f"{what} {item.get('id', '(without id)')} has no {key!r}")
