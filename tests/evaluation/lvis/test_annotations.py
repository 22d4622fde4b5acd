# SPDX-License-Identifier: Apache-2.0
"""The ground truth of a small file as arrays, worked out by hand."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.catalog import Metadata

from longtail.evaluation.lvis.annotations import category_of_class, read_lvis_annotations

SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]  # x 2 to 12, y 3 to 13


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


def document():
    """Categories 4, 7, 9 and images 30, 20, neither in this order."""
    size = {"height": 20, "width": 30}
    return {
        "categories": [
            {"id": 9, "name": "ant", "frequency": "f", "image_count": 500, "instance_count": None},
            {"id": 4, "frequency": "r"},
            {"id": 7, "name": "cat", "frequency": "f", "image_count": 101, "instance_count": None},
        ],
        "images": [
            {"id": 30, **size, "neg_category_ids": [9], "not_exhaustive_category_ids": [7]},
            {"id": 20, **size, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "annotations": [
            annotation(1, 30, 7),
            annotation(2, 20, 9, area=0),
            annotation(3, 30, 4, ignore=1, bbox=[0.5, 0, 2, 3], area=6.5),
            annotation(4, 20, 9, area=0.0),
            annotation(5, 30, 7, ignore=0, area=1e-3, segmentation=None),
        ],
    }


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "toy.json"
        path.write_text(json.dumps(content))
        return read_lvis_annotations(path)

    return read


def test_arrays(read, tmp_path, caplog):
    found = read(document())
    assert "2 of 5 annotations with the area 0 are left out" in caplog.text
    assert found.json_file == str(tmp_path / "toy.json")
    assert found.category_ids.tolist() == [4, 7, 9]
    assert found.categories == [
        {"id": 4, "name": "4", "frequency": "r", "image_count": None, "instance_count": None},
        {"id": 7, "name": "cat", "frequency": "f", "image_count": 101, "instance_count": None},
        {"id": 9, "name": "ant", "frequency": "f", "image_count": 500, "instance_count": None},
    ]
    assert found.image_ids.tolist() == [20, 30]
    assert found.sizes == [(20, 30), (20, 30)]
    assert found.has_annotations
    first, second = found.images
    # Those without area are left out.
    assert first.category.tolist() == first.negative.tolist() == first.not_exhaustive.tolist() == []
    assert first.boxes.shape == (0, 4) and first.boxes.dtype == np.float64
    assert second.category.tolist() == [1, 0, 1]
    assert second.boxes.tolist() == [[2, 3, 10, 10], [0.5, 0, 2, 3], [2, 3, 10, 10]]
    assert second.area.tolist() == [100, 6.5, 1e-3]
    assert second.ignored.tolist() == [False, True, False]
    assert second.negative.tolist() == [2]
    assert second.not_exhaustive.tolist() == [1]


def test_groups_of_categories(read):
    groups = read(document()).frequency_groups()
    assert {letter: indices.tolist() for letter, indices in groups.items()} == {
        "r": [0],
        "c": [],
        "f": [1, 2],
    }
    # An empty group selects nothing, as an array of indices does.
    assert np.arange(3)[groups["c"]].tolist() == []


def test_what_the_federated_rules_can_count(read):
    first, second = read(document()).images
    categories = np.array([2, 0, 1, 0])
    assert first.countable(categories).tolist() == [False] * 4
    # Annotated (0 and 1) or known to be absent (2); an open list alone says nothing.
    assert second.countable(categories).tolist() == [True] * 4
    content = document()
    content["images"][0]["neg_category_ids"] = []
    second = read(content).images[1]
    assert second.countable(categories).tolist() == [False, True, True, True]
    del content["annotations"][0], content["annotations"][-1]
    second = read(content).images[1]
    assert second.countable(categories).tolist() == [False, True, False, True]


def test_a_test_set_has_no_annotations(read):
    content = document()
    del content["annotations"]
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    found = read(content)
    assert not found.has_annotations
    assert [len(image.category) for image in found.images] == [0, 0]
    assert found.images[0].negative.tolist() == []
    with_empty = read({**content, "annotations": [], "images": document()["images"]})
    assert with_empty.has_annotations


def test_masks(read):
    square = np.zeros((20, 30), bool)
    square[3:13, 2:12] = True
    rest = np.zeros((20, 30), bool)
    rest[15:18, 20:25] = True
    mask = np.asfortranarray(square | rest, np.uint8)
    runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    compressed = {"size": [20, 30], "counts": mask_util.encode(mask)["counts"].decode()}
    shapes = {
        1: ([SQUARE], square),
        2: ([SQUARE, [20, 15, 25, 15, 25, 18, 20, 18]], square | rest),
        3: (compressed, square | rest),
        4: ({"size": [20, 30], "counts": np.diff([0, *runs, mask.size]).tolist()}, square | rest),
    }
    content = document()
    content["annotations"] = [
        annotation(number, 30, 7, segmentation=shape) for number, (shape, _) in shapes.items()
    ]
    found = read(content)
    for rle, (_, expected) in zip(found.masks(1), shapes.values(), strict=True):
        np.testing.assert_array_equal(mask_util.decode(rle).astype(bool), expected)
    assert found.masks(0) == []


@pytest.mark.parametrize(
    ("shape", "fact"),
    [
        ([[1, 2, 3, 4]], "3 points"),
        ([[1] * 7], "3 points"),
        ([["x"] * 6], "polygon"),
        ([[[1, 2], [3, 4], [5, 6]] * 2], "polygon"),
        ([5], "polygon"),
        ({"size": [20, 31], "counts": "11"}, "[20, 30]"),
        ({"size": [20, 30]}, "counts"),
    ],
    ids=str,
)
def test_an_invalid_segmentation_is_named(read, tmp_path, shape, fact):
    content = document()
    content["annotations"][0]["segmentation"] = shape
    with pytest.raises(ValueError, match=r"toy\.json: annotation 1 has an") as error:
        read(content)
    assert fact in str(error.value) and "\n" not in str(error.value)
    # Boxes can be evaluated all the same.
    (tmp_path / "toy.json").write_text(json.dumps(content))
    found = read_lvis_annotations(tmp_path / "toy.json", with_masks=False)
    assert found.images[1].segmentation == [None] * 3


def test_an_annotation_without_mask_has_a_box_alone(read):
    with pytest.raises(ValueError, match=r"toy\.json: image 30 .*segmentation") as error:
        read(document()).masks(1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("annotations", {"area": "large"}),
        ("annotations", {"bbox": [1, 2, "3", 4]}),
        ("images", {"height": "x"}),
        ("images", {"neg_category_ids": 5}),
        ("images", {"id": "twenty"}),
        ("categories", {"id": None}),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_one_line(read, section, changes):
    content = document()
    content[section][1].update(changes)
    with pytest.raises(ValueError, match=r"toy\.json") as error:
        read(content)
    assert "\n" not in str(error.value)


class TestCategoryOfClass:
    def map(self, read, **metadata):
        return category_of_class(read(document()), Metadata(**metadata), "toy")

    def test_by_the_mapping_of_the_metadata(self, read):
        found = self.map(read, thing_dataset_id_to_contiguous_id={9: 0, 4: 1, 7: 2})
        assert found.tolist() == [2, 0, 1]
        # A model of some of the classes.
        assert self.map(read, thing_dataset_id_to_contiguous_id={9: 0, 7: 1}).tolist() == [2, 1]

    def test_without_one_class_c_has_the_id_c_plus_1(self, read):
        content = document()
        for section, key in (("categories", "id"), ("annotations", "category_id")):
            for entry in content[section]:
                entry[key] = {4: 1, 7: 2, 9: 3}[entry[key]]
        for entry in content["images"]:
            entry["neg_category_ids"] = entry["not_exhaustive_category_ids"] = []
        # The category 1 has no name.
        annotations = read(content)
        found = category_of_class(annotations, Metadata(thing_classes=["a", "cat"]), "toy")
        assert found.tolist() == [0, 1]
        with pytest.raises(ValueError, match=r"toy\.json .*class 1 is 'cat' .* and 'b' in"):
            category_of_class(annotations, Metadata(thing_classes=["a", "b"]), "toy")

    def test_the_same_names_in_another_order(self, read):
        content = document()
        for entry, number in zip(content["categories"], (1, 2, 3), strict=True):
            entry["id"] = number
        content["categories"][1]["name"] = "bee"  # 1 ant, 2 bee, 3 cat
        content["annotations"], content["images"] = [], []
        metadata = Metadata(thing_classes=["cat", "ant", "bee"])
        assert category_of_class(read(content), metadata, "toy").tolist() == [2, 0, 1]

    def test_without_classes_too_it_is_the_order_of_the_ids(self, read):
        assert self.map(read).tolist() == [0, 1, 2]

    def test_what_does_not_fit(self, read):
        with pytest.raises(ValueError, match=r"'toy' has the category id 1,.*toy\.json"):
            self.map(read, thing_classes=["a", "b"])
        with pytest.raises(ValueError, match="of 'toy' must be 0 to 1"):
            self.map(read, thing_dataset_id_to_contiguous_id={4: 0, 7: 2})
