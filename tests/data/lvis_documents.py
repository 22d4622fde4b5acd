# SPDX-License-Identifier: Apache-2.0
"""Small documents in LVIS's JSON format."""

import json

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta

SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]
TRIANGLE = [1.5, 1.0, 20.0, 1.0, 10.25, 15.5]


def annotation(number, image_id, category_id, **changes):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [2, 3, 10, 10],
        "area": 100,
        "segmentation": [SQUARE],
        **changes,
    }


def image(number, folder="val2017", **changes):
    return {
        "id": number,
        "height": 24,
        "width": 32,
        "coco_url": f"http://images.cocodataset.org/{folder}/{number:012d}.jpg",
        **changes,
    }


def categories(names):
    return [
        {"id": i, "name": name, "synonyms": [name], "frequency": "r"}
        for i, name in enumerate(names, start=1)
    ]


def official_document(version):
    """Three images (unsorted) and four annotations, with all categories of ``"v1"``/``"v0.5"``."""
    names = get_lvis_instances_meta(f"lvis_{version}")["thing_classes"]
    extra = {"file_name": "COCO_train2014_000000000009.jpg"} if version == "v0.5" else {}
    lists = {"neg_category_ids": [5, 9], "not_exhaustive_category_ids": [len(names)]}
    return {
        "categories": categories(names),
        "images": [
            image(9, "train2017", **lists, **extra),
            image(7, **lists),
            image(8),
        ],
        "annotations": [
            annotation(4, 9, len(names)),
            annotation(1, 7, 1, segmentation=[TRIANGLE, SQUARE], bbox=[1.5, 1.0, 18.5, 14.5]),
            annotation(2, 9, 3),
            annotation(3, 7, 1),
        ],
    }


def small_document():
    """Two images, one of them empty, and two categories."""
    return {
        "categories": categories(["cup", "plate"]),
        "images": [image(1), image(2)],
        "annotations": [annotation(10, 1, 2)],
    }


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def forget(name):
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
