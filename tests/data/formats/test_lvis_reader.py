# SPDX-License-Identifier: Apache-2.0
"""The one reader of LVIS's JSON: what is given back, and what is refused in one line."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from longtail.data.formats.lvis_reader import (
    check_segmentation,
    compressed_rle,
    read_lvis_json,
    segmentation_rle,
)
from tests.data.lvis_documents import SQUARE, TRIANGLE, annotation, image, small_document

NEEDS = {
    "category_keys": ("name", "frequency"),
    "image_keys": ("neg_category_ids",),
    "annotation_keys": ("segmentation", "area"),
}


def document():
    """Categories 5 and 2, images 9 and 4, annotations in no order."""
    return {
        "categories": [
            {"id": 5, "name": "plate", "frequency": "c"},
            {"id": 2, "name": "cup", "frequency": "f"},
        ],
        "images": [image(9, neg_category_ids=[]), image(4, neg_category_ids=[2])],
        "annotations": [
            annotation(31, 4, 5),
            annotation(7, 9, 2, segmentation=[SQUARE, TRIANGLE]),
            annotation(12, 4, 2, segmentation={"size": [24, 32], "counts": [0, 768]}),
        ],
    }


@pytest.fixture
def read(tmp_path):
    def read(content, **needs):
        path = tmp_path / "toy.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_lvis_json(path, **needs)

    return read


def test_entries_are_given_as_they_are(read, tmp_path):
    given = document()
    content = read(given, **NEEDS)
    assert content.path == str(tmp_path / "toy.json")
    assert content.categories == given["categories"][::-1]
    assert content.images == given["images"][::-1]
    assert content.annotations == given["annotations"]


def test_only_what_is_needed_is_checked(read):
    given = document()
    for entry in given["categories"]:
        del entry["name"]
        entry["frequency"] = "often"
    for entry in given["images"]:
        del entry["neg_category_ids"], entry["coco_url"]
    for entry in given["annotations"]:
        del entry["area"]
        entry["segmentation"] = "none"
    assert read(given).annotations == given["annotations"]


def test_a_test_set_has_no_annotations_and_no_further_keys_of_images(read):
    given = document()
    del given["annotations"], given["images"][0]["neg_category_ids"]
    content = read(given, **NEEDS)
    assert content.annotations is None and len(content.images) == 2
    given["annotations"] = []
    with pytest.raises(ValueError, match="image 9 has no 'neg_category_ids'"):
        read(given, **NEEDS)


def change(section, index, **values):
    """A change of one entry; a value of None takes the key away."""

    def apply(content):
        for key, value in values.items():
            content[section][index][key] = value
            if value is None:
                del content[section][index][key]

    return apply


def add(section, entry):
    return lambda content: content[section].append(entry)


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (lambda c: c.pop("images"), ["'images'"]),
        (lambda c: c.update(categories={}), ["'categories'"]),
        (lambda c: c.update(annotations=None), ["'annotations'"]),
        (change("categories", 0, id=None), ["category (without id)", "'id'"]),
        (change("categories", 1, name=None), ["category 2 ", "'name'"]),
        (change("categories", 1, frequency=None), ["category 2 ", "'frequency'"]),
        (change("categories", 0, frequency="x"), ["category 5 ", "'x'", "'r', 'c', 'f'"]),
        (change("images", 0, height=None), ["image 9 ", "'height'"]),
        (change("images", 1, width=None), ["image 4 ", "'width'"]),
        (change("images", 1, neg_category_ids=None), ["image 4 ", "'neg_category_ids'"]),
        (change("annotations", 0, id=None), ["annotation (without id)", "'id'"]),
        (change("annotations", 2, bbox=None), ["annotation 12 ", "'bbox'"]),
        (change("annotations", 1, area=None), ["annotation 7 ", "'area'"]),
        (change("annotations", 1, segmentation=None), ["annotation 7 ", "'segmentation'"]),
        (add("images", image(4, neg_category_ids=[])), ["the id 4 ", "image"]),
        (add("categories", {"id": 5, "name": "x", "frequency": "r"}), ["the id 5 ", "category"]),
        (add("annotations", annotation(31, 9, 2)), ["the id 31 ", "annotation"]),
        (add("images", [1]), ["image", "object: [1]"]),
        (add("annotations", "x"), ["annotation", "object: 'x'"]),
        (add("categories", None), ["category", "object: None"]),
        (change("annotations", 0, image_id=5), ["annotation 31 ", "image_id 5"]),
        (change("annotations", 0, category_id=9), ["annotation 31 ", "category_id 9"]),
        (change("annotations", 1, bbox=[1, 2, 3]), ["annotation 7 ", "[1, 2, 3]", "[x, y, w, h]"]),
        (change("annotations", 1, bbox=[1, 2, 3, "4"]), ["annotation 7 ", "[1, 2, 3, '4']"]),
        (change("annotations", 1, bbox=[1, 2, -3, 4]), ["annotation 7 ", "[1, 2, -3, 4]"]),
        (change("annotations", 1, bbox=[1, 2, 3, -4]), ["annotation 7 ", "[1, 2, 3, -4]"]),
        (change("annotations", 1, bbox={"x": 1}), ["annotation 7 ", "{'x': 1}"]),
        (change("annotations", 1, segmentation=[]), ["annotation 7 ", "polygon"]),
        (
            change("annotations", 0, segmentation={"size": [32, 24], "counts": "a"}),
            ["annotation 31 ", "[32, 24]", "[24, 32]"],
        ),
        (change("images", 0, id=[9]), ["unhashable"]),
        (change("images", 0, id="nine"), ["'<'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(read, damage, facts):
    content = copy.deepcopy(document())
    damage(content)
    with pytest.raises(ValueError, match=r"^/.*toy\.json: ") as caught:
        read(content, **NEEDS)
    message = str(caught.value)
    assert "\n" not in message
    for fact in facts:
        assert fact in message


def test_boxes_may_start_outside_and_be_empty(read):
    given = document()
    given["annotations"][0]["bbox"] = [-0.5, -3, 0, 0.0]
    assert read(given, **NEEDS).annotations[0]["bbox"] == [-0.5, -3, 0, 0]


@pytest.mark.parametrize("text", ["", '{"images": [{"id": 1', "<html>\n", "\ud800"])
def test_files_that_are_cut_short_or_not_json(tmp_path, text):
    path = tmp_path / "toy.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=r"^/.*toy\.json .*JSON") as caught:
        read_lvis_json(path)
    assert "\n" not in str(caught.value)


def test_a_list_is_not_a_document(read):
    with pytest.raises(ValueError, match=r"^/.*toy\.json .* list"):
        read([small_document()])


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^/.*no\.json is missing; run the tool$"):
        read_lvis_json(tmp_path / "no.json", remedy="run the tool")


class TestSegmentations:
    def rle(self, **changes):
        return {"size": [24, 32], "counts": [32 * 24 - 5, 5], **changes}

    @pytest.mark.parametrize(
        "shape",
        [
            [SQUARE],
            [SQUARE, TRIANGLE],
            [np.array(SQUARE, float), TRIANGLE],
            {"size": [24, 32], "counts": [0, 768]},
            {"size": [24, 32], "counts": "abc"},
        ],
        ids=str,
    )
    def test_what_is_accepted(self, shape):
        check_segmentation(shape, 24, 32)

    @pytest.mark.parametrize(
        ("shape", "fact"),
        [
            (None, "polygon"),
            ("abc", "polygon"),
            ([], "polygon"),
            (SQUARE, "polygon"),
            ([SQUARE, [1, 2, 3, 4]], "3 points"),
            ([[1] * 7], "3 points"),
            ([np.zeros((6, 2))], "polygon"),
            ({"size": [24, 32]}, "counts"),
            ({"size": [24, 32], "counts": 5}, "counts"),
            ({"counts": "abc"}, r"\[24, 32\]"),
            ({"size": [32, 24], "counts": "abc"}, r"\[32, 24\].* \[24, 32\]"),
        ],
        ids=str,
    )
    def test_what_is_refused(self, shape, fact):
        for check in (check_segmentation, segmentation_rle):
            with pytest.raises(ValueError, match=f"^has an .*{fact}"):
                check(shape, 24, 32)

    def test_polygons_become_one_mask(self):
        expected = np.zeros((24, 32), bool)
        expected[3:13, 2:12] = True
        expected[15:20, 20:30] = True
        # Twice the same square: a union, not a difference.
        shape = [SQUARE, SQUARE, [20, 15, 30, 15, 30, 20, 20, 20]]
        rle = segmentation_rle(shape, 24, 32)
        np.testing.assert_array_equal(mask_util.decode(rle), expected)

    def test_counts_are_compressed_once(self):
        rle = compressed_rle(self.rle())
        expected = np.zeros((24, 32), bool)
        expected[-5:, -1] = True  # the last five pixels, column by column
        np.testing.assert_array_equal(mask_util.decode(rle), expected)
        text = {"size": [24, 32], "counts": rle["counts"].decode()}
        assert compressed_rle(text) is text
        assert segmentation_rle(text, 24, 32) is text
        np.testing.assert_array_equal(
            mask_util.decode(segmentation_rle(self.rle(), 24, 32)), expected
        )
