# SPDX-License-Identifier: Apache-2.0
"""Records of detectron2's format from a content that is written down here."""

import pytest
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from longtail.data.formats.lvis_reader import LVISContent
from longtail.data.formats.lvis_records import lvis_records
from tests.data.lvis_documents import SQUARE, annotation, image
from tests.messages import assert_names

CLASS_INDEX = {7: 1, 3: 0}


def content(images, annotations):
    categories = [{"id": 3, "name": "cup"}, {"id": 7, "name": "plate"}]
    return LVISContent("toy.json", categories, images, annotations)


def test_records():
    images = [
        image(2, neg_category_ids=[3], not_exhaustive_category_ids=[7]),
        image(5, coco_url="http://x/train2017/a.jpg", file_name="old.jpg"),
        {"id": 6, "height": 1, "width": 2, "file_name": "b/c.png"},
    ]
    items = [annotation(1, 5, 7), annotation(2, 2, 3), annotation(3, 5, 3, bbox=[0, 1, 2.5, 3])]
    first, second, third = lvis_records(content(images, items), "root", CLASS_INDEX)
    shared = {"bbox_mode": BoxMode.XYWH_ABS, "segmentation": [SQUARE]}
    assert first == {
        "file_name": "root/val2017/000000000002.jpg",
        "height": 24,
        "width": 32,
        "image_id": 2,
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [7],
        "annotations": [{"bbox": [2, 3, 10, 10], "category_id": 0, **shared}],
    }
    assert second["file_name"] == "root/train2017/a.jpg"
    assert second["neg_category_ids"] == second["not_exhaustive_category_ids"] == []
    assert second["annotations"] == [
        {"bbox": [2, 3, 10, 10], "category_id": 1, **shared},
        {"bbox": [0, 1, 2.5, 3], "category_id": 0, **shared},
    ]
    assert third["file_name"] == "root/b/c.png"
    assert (third["height"], third["width"], third["annotations"]) == (1, 2, [])


def test_a_test_set():
    (record,) = lvis_records(content([image(2)], None), "root", CLASS_INDEX)
    assert "annotations" not in record


def test_counts_of_an_rle_are_compressed():
    compressed = {"size": [24, 32], "counts": "abc"}
    plain = {"size": [24, 32], "counts": [760, 8]}
    items = [
        annotation(1, 2, 3, segmentation=compressed),
        annotation(2, 2, 3, segmentation=plain),
    ]
    (record,) = lvis_records(content([image(2)], items), "root", CLASS_INDEX)
    assert record["annotations"][0]["segmentation"] == compressed
    assert mask_util.decode(record["annotations"][1]["segmentation"]).sum() == 8


@pytest.mark.parametrize(
    ("images", "items", "message"),
    [
        ([{"id": 6, "height": 1, "width": 2}], [], r"image 6 .*coco_url .*file_name"),
        ([image(2, coco_url=None)], [], r"image 2 .*coco_url .*file_name"),
        ([image(2, coco_url="", file_name=7)], [], r"image 2 .*coco_url .*file_name"),
    ],
)
def test_what_cannot_be_a_record(images, items, message):
    with pytest.raises(ValueError, match=rf"^toy\.json: {message}") as caught:
        lvis_records(content(images, items), "root", CLASS_INDEX)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", [None, "", 5])
def test_an_empty_url_leaves_the_file_name(url):
    images = [image(2, coco_url=url, file_name="a.jpg")]
    (record,) = lvis_records(content(images, []), "root", CLASS_INDEX)
    assert record["file_name"] == "root/a.jpg"


def test_boxes_without_masks():
    items = [annotation(1, 2, 3), annotation(2, 2, 3, segmentation=None)]
    del items[0]["segmentation"]
    (record,) = lvis_records(content([image(2)], items), "root", CLASS_INDEX)
    assert [sorted(item) for item in record["annotations"]] == [
        ["bbox", "bbox_mode", "category_id"]
    ] * 2


def test_crowds_are_marked_and_empty_boxes_left_out(caplog):
    items = [
        annotation(1, 2, 3, iscrowd=0),
        annotation(2, 2, 3, iscrowd=1),
        annotation(3, 2, 7, bbox=[1, 2, 0, 5]),
        annotation(4, 2, 7, bbox=[1, 2, 5, 0.0]),
    ]
    (record,) = lvis_records(content([image(2)], items), "root", CLASS_INDEX)
    assert [item.get("iscrowd") for item in record["annotations"]] == [None, 1]
    assert [item["category_id"] for item in record["annotations"]] == [0, 0]
    (warning,) = (entry.getMessage() for entry in caplog.records)
    assert_names(warning, "toy.json", "of 4 annotations", "2 with an empty box", "1 of crowds")
