# SPDX-License-Identifier: Apache-2.0
"""The one reader of LVIS's JSON: what is given back, and what is refused in one line."""

import copy
import json
import math

import pytest

from longtail.data.formats.lvis_checks import SHAPES
from longtail.data.formats.lvis_reader import read_lvis_json
from tests.data.lvis_documents import SQUARE, TRIANGLE, annotation, image, small_document

# In JSON; in a change, None takes a key away.
NULL = object()
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
        del entry["frequency"]
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
            elif value is NULL:
                content[section][index][key] = None

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
        # Ids are integers of 64 bits.
        (change("images", 0, id=[9]), ["image id [9]"]),
        (change("images", 0, id="nine"), ["image id 'nine'"]),
        (change("categories", 0, id=True), ["category id True"]),
        (change("categories", 0, id=5.0), ["category id 5.0"]),
        (change("annotations", 0, id=2**63), ["annotation id 9223372036854775808"]),
        (change("annotations", 0, id=NULL), ["annotation id None"]),
        (change("annotations", 0, image_id=4.0), ["annotation 31 ", "image_id 4.0"]),
        (change("annotations", 0, image_id=[4]), ["annotation 31 ", "image_id [4]"]),
        (change("annotations", 0, category_id=True), ["annotation 31 ", "category_id True"]),
        # Names are text, and different.
        (change("categories", 0, name=NULL), ["category 5 ", "name None"]),
        (change("categories", 0, name=" "), ["category 5 ", "name ' '"]),
        (change("categories", 0, name=7), ["category 5 ", "name 7"]),
        (change("categories", 0, name="cup"), ["'cup'", "2, 5"]),
        (change("categories", 0, frequency=["r"]), ["category 5 ", "['r']"]),
        # Sizes.
        (change("images", 0, height=0), ["image 9 ", "height 0"]),
        (change("images", 0, width=-3), ["image 9 ", "width -3"]),
        (change("images", 0, width=32.0), ["image 9 ", "width 32.0"]),
        (change("images", 0, width=True), ["image 9 ", "width True"]),
        (change("images", 0, width=70_000), ["image 9 ", "width 70000", "65536"]),
        (change("images", 0, width=65_536, height=65_536), ["image 9 ", "65536 x 65536"]),
        # Lists of categories.
        (change("images", 1, neg_category_ids=[2, 3]), ["image 4 ", "category 3 "]),
        (change("images", 1, neg_category_ids=5), ["image 4 ", "neg_category_ids 5"]),
        (change("images", 1, neg_category_ids=["2"]), ["image 4 ", "['2']"]),
        (change("images", 1, not_exhaustive_category_ids=[7]), ["image 4 ", "category 7 "]),
        # Numbers: the image has 24 x 32 pixels.
        (change("annotations", 1, bbox=[1, 2, 3, math.nan]), ["annotation 7 ", "nan]"]),
        (change("annotations", 1, bbox=[1, -math.inf, 3, 4]), ["annotation 7 ", "-inf"]),
        (change("annotations", 1, bbox=[65, 2, 3, 4]), ["annotation 7 ", "[65, ", "-64 to 64"]),
        (change("annotations", 1, bbox=[1, 2, 10**400, 4]), ["annotation 7 ", "-64 to 64"]),
        (change("annotations", 1, bbox=[True, 2, 3, 4]), ["annotation 7 ", "[True, "]),
        (change("annotations", 1, area=-5), ["annotation 7 ", "area -5"]),
        (change("annotations", 1, area=math.nan), ["annotation 7 ", "area nan"]),
        (change("annotations", 1, area=math.inf), ["annotation 7 ", "area inf"]),
        (change("annotations", 1, area="5"), ["annotation 7 ", "area '5'"]),
        (change("annotations", 1, area=True), ["annotation 7 ", "area True"]),
        (change("annotations", 1, iscrowd=2), ["annotation 7 ", "iscrowd 2"]),
        (change("annotations", 1, iscrowd=[1]), ["annotation 7 ", "iscrowd [1]"]),
        (
            change("annotations", 1, segmentation=[[1, 2, 3, 4, 5, math.nan]]),
            ["annotation 7 ", "coordinate nan", "24 x 32"],
        ),
        (
            change("annotations", 1, segmentation=[SQUARE, [1, 2, 3, 4, 5, 1e9]]),
            ["annotation 7 ", "coordinate 1000000000.0", "-64 to 64"],
        ),
        (
            change("annotations", 1, segmentation=[[1, 2, 3, 4, 5, "6"]]),
            ["annotation 7 ", "coordinate '6'"],
        ),
        (
            change("annotations", 2, segmentation={"size": [24, 32], "counts": [0, 767]}),
            ["annotation 12 ", "767", "768"],
        ),
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


def test_segmentations_may_be_missing_but_not_wrong(read):
    needs = {"annotation_keys": (SHAPES,)}
    given = document()
    del given["annotations"][0]["segmentation"]
    given["annotations"][1]["segmentation"] = None
    assert read(given, **needs).annotations == given["annotations"]
    given["annotations"][1]["segmentation"] = []
    assert read(given, **needs).annotations == given["annotations"]
    given["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="annotation 12 has an invalid polygon"):
        read(given, **needs)


def test_an_image_limits_its_own_annotations_alone(read):
    # 100 is twice the longer side of one image, and more than that of the other.
    given = document()
    given["images"][0].update(height=50, width=10)
    for item in given["annotations"]:
        item["segmentation"], item["bbox"] = [[0, 0, 10, 0, 10, 100]], [0, 0, 10, 100]
    with pytest.raises(ValueError, match="annotation 31 has the bbox"):
        read(given, **NEEDS)
    for item in given["annotations"]:
        item["bbox"] = [0, 0, 10, 10]
    with pytest.raises(ValueError, match=r"annotation 31 has an invalid polygon: .* 100,"):
        read(given, **NEEDS)
    for item in given["annotations"]:
        item["image_id"] = 9
    assert len(read(given, **NEEDS).annotations) == 3


def test_a_deeply_nested_file(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match=r"^/.*toy\.json .*JSON"):
        read_lvis_json(path)


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
