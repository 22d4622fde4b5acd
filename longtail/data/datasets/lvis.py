# SPDX-License-Identifier: Apache-2.0
"""LVIS and data sets in its JSON format.

Registered here: detectron2's ``lvis_v1_*`` and ``lvis_v0.5_*``, the generated
``lvis_synthetic_{train,val}`` and ``lvis_hued_{train,val}``, and ``lvis_camvid_{train,val}``, the
objects of CamVid.

The records are those of detectron2's own loader, without its need for the ``lvis`` package; in
addition, segmentations may be RLE, and a damaged file is an error of one line.

Category ids of LVIS start at 1, class indices at 0: index = id - 1, unless the metadata hold
``thing_dataset_id_to_contiguous_id``, or the file has the registered names in another order.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin import _PREDEFINED_SPLITS_LVIS
from detectron2.data.datasets.lvis import get_lvis_instances_meta

from longtail.data.datasets import camvid
from longtail.data.datasets.classes import classes_of_categories
from longtail.data.datasets.files import check_files_exist
from longtail.data.datasets.register import PathLike, replace_registration
from longtail.data.formats.generated import (
    HUED_NUM_CATEGORIES,
    LVIS_NUM_CLASSES,
    annotation_file,
    hued_classes,
    num_stuff,
    read_meta,
    scene_classes,
)
from longtail.data.formats.lvis_checks import SHAPES, category_names
from longtail.data.formats.lvis_reader import LVISContent, read_lvis_json
from longtail.data.formats.lvis_records import lvis_records

SYNTHETIC = "lvis_synthetic"
HUED = "lvis_hued"
# Classes of CamVid whose connected regions are objects, in the order of their category ids.
CAMVID_OBJECTS = ("Pole", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")

_HINT = "take it from lvisdataset.org; 'longtail prepare lvis' says what belongs where"


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
    """Register the generated ``lvis_synthetic_{train,val}`` and ``lvis_hued_{train,val}``.

    The classes are those of ``root/NAME/meta.json``; of the default configuration as long as
    nothing is generated. Call it again after generating another number of classes in the same
    process.

    Args:
        root: the folder that holds the data sets.
    """
    scenes = scene_classes(LVIS_NUM_CLASSES)[num_stuff(LVIS_NUM_CLASSES) :]
    for name, option, default in (
        (SYNTHETIC, "--lvis", scenes),
        (HUED, "--hued", hued_classes(HUED_NUM_CATEGORIES)),
    ):
        base = os.path.join(root, name)
        classes = (read_meta(base) or {}).get("categories") or default
        for split in ("train", "val"):
            register_lvis_instances(
                f"{name}_{split}",
                annotation_file(base, split),
                os.path.join(base, "images"),
                metadata={"thing_classes": classes},
                hint=f"make it with: longtail generate {option}",
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
    """Name the file with the objects of a split of CamVid, ``"train"`` or ``"val"``."""
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
    json_file: PathLike,
    image_root: PathLike,
    dataset_name: str,
    *,
    hint: str = "",
    by_file_name: bool = False,
    find_images: bool = False,
) -> list[dict[str, Any]]:
    """Read annotations in LVIS's JSON format.

    Args:
        json_file: the annotations. A file without ``annotations``, such as those of the test
            sets, gives records without them.
        image_root: the folder under which the images lie, see
            :func:`~longtail.data.formats.lvis_records.lvis_records`.
        dataset_name: the registered name. Its metadata say which classes there are; if they do
            not, ``thing_classes`` (and ``thing_dataset_id_to_contiguous_id``, where the ids are
            not 1 to K) are set from the file.
        hint: how to make the file, for the error messages.
        by_file_name: find images by their ``file_name`` even where they have a ``coco_url``.
        find_images: whether every image has to be there.

    Returns:
        Records in detectron2's format, sorted by image id: ``file_name``, ``height``, ``width``,
        ``image_id``, ``neg_category_ids`` and ``not_exhaustive_category_ids`` (ids of the file,
        from 1), and ``annotations``: ``bbox`` in ``BoxMode.XYWH_ABS``, ``category_id`` (class
        index, from 0), ``segmentation`` where there is one (polygons, or RLE with compressed
        counts, which needs ``INPUT.MASK_FORMAT: bitmask``), ``iscrowd`` where it is 1.

    Raises:
        FileNotFoundError: there is no such file, or no such image.
        ValueError: it is cut short or not JSON, lacks a key, has other categories than the data
            set, or has an annotation of an unknown image or category, or with an invalid box,
            polygon or RLE.
    """
    try:
        content = read_lvis_json(
            json_file,
            category_keys=("name",),
            annotation_keys=(SHAPES,),
            remedy=hint or "correct the path with which the data set was registered",
        )
        class_index = _class_indices(content, dataset_name)
        records = lvis_records(content, os.fspath(image_root), class_index, by_file_name)
        if find_images:
            check_files_exist(
                os.fspath(image_root), [record["file_name"] for record in records], hint
            )
        return records
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{dataset_name}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{dataset_name}: {error}") from None


def _class_indices(content: LVISContent, dataset_name: str) -> dict[int, int]:
    """Look up the class index of each category id; set the class names of a data set without."""
    names = {category["id"]: category["name"] for category in content.categories}
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("thing_classes") is None:
        metadata.set(thing_classes=list(names.values()))
        if not metadata.get("coco_json") and list(names) != list(range(1, len(names) + 1)):
            mapping = {number: index for index, number in enumerate(names)}
            metadata.set(thing_dataset_id_to_contiguous_id=mapping)
    expected = metadata.get("thing_dataset_id_to_contiguous_id")
    if metadata.get("coco_json"):
        expected = names
    if expected is None:
        expected = range(1, len(metadata.thing_classes) + 1)
    if names.keys() != set(expected):
        odd = min(names.keys() ^ set(expected))
        raise ValueError(
            f"{content.path}: {len(names)} categories, but the data set is registered with "
            f"{len(expected)} (ids {min(expected)} to {max(expected)}), and only one of the two "
            f"has the id {odd}: the file is another's, or was made afterwards"
        )
    return classes_of_categories(
        {item["id"]: category_names(item) for item in content.categories}, metadata, content.path
    )
