# SPDX-License-Identifier: Apache-2.0
"""Lists of class names: the same, the same in another order, and others; and what is mapped."""

import copy
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from longtail.data.datasets import load_lvis_json, register_lvis_instances, register_sem_seg
from longtail.data.datasets.alignment import MODEL_CLASSES, align_classes
from longtail.data.datasets.classes import (
    check_same_order,
    class_names,
    class_order,
    classes_of_categories,
)
from longtail.data.datasets.image_list import register_image_list
from longtail.data.statistics.class_stats import compute_class_stats
from tests.data.lvis_documents import annotation, categories, forget, image, write
from tests.messages import assert_names, raises_naming

CUP_BOLT_LEAF = ["cup", "bolt", "leaf"]
BOLT_LEAF_CUP = ["bolt", "leaf", "cup"]
NAME = "toy_classes"


@pytest.fixture(autouse=True)
def free_name():
    yield
    forget(NAME)


def order(names, reference):
    return class_order(names, reference, "A", "B", "rename them")


class TestOrder:
    def test_each_class_has_its_place_in_the_reference(self):
        assert order(CUP_BOLT_LEAF, CUP_BOLT_LEAF) == [0, 1, 2]
        # bolt, leaf and cup are 1, 2 and 0 in the reference.
        assert order(BOLT_LEAF_CUP, CUP_BOLT_LEAF) == [1, 2, 0]
        assert order((), ()) == []

    @pytest.mark.parametrize(
        ("names", "facts"),
        [
            (["cup", "nut", "leaf"], ["class 1", "'nut'", "'bolt'"]),
            (["leaf", "cup", "nut"], ["class 0", "'leaf'", "'cup'"]),
            (["cup", "bolt"], ["A has 2", "B has 3"]),
            (["cup", "bolt", "bolt"], ["class 2", "'bolt'", "'leaf'"]),
        ],
    )
    def test_others_are_refused_by_the_first_that_differs(self, names, facts):
        with raises_naming(ValueError, "A", "B", *facts, "rename them"):
            order(names, CUP_BOLT_LEAF)

    def test_repeated_names_cannot_be_mapped(self):
        with pytest.raises(ValueError, match="different classes"):
            order(["a", "b", "a"], ["b", "a", "a"])

    def test_numbers_stand_for_classes_without_names(self):
        assert order(["0", "1", "2"], CUP_BOLT_LEAF) == [0, 1, 2]
        assert order(CUP_BOLT_LEAF, ["0", "1", "2"]) == [0, 1, 2]
        # But not in another order, nor others.
        assert order(["1", "0", "2"], ["0", "2", "1"]) == [2, 0, 1]
        with pytest.raises(ValueError, match="class 0 is '1'"):
            order(["1", "0", "2"], CUP_BOLT_LEAF)
        with pytest.raises(ValueError, match="2 classes"):
            order(["0", "1"], CUP_BOLT_LEAF)

    def test_where_the_order_matters(self):
        check_same_order(CUP_BOLT_LEAF, tuple(CUP_BOLT_LEAF), "A", "B", "rename them")
        with raises_naming(ValueError, "class 0", "'bolt'", "'cup'", "another order", "rename"):
            check_same_order(BOLT_LEAF_CUP, CUP_BOLT_LEAF, "A", "B", "rename them")


NAMES_BY_ID = {1: ("bolt",), 2: ("leaf", "sheet"), 3: ("cup",)}


class TestCategories:
    def classes(self, names=None, **metadata):
        return classes_of_categories(names or NAMES_BY_ID, Metadata(**metadata), "toy.json")

    def test_the_metadata_decide(self):
        given = {3: 0, 1: 1}
        assert self.classes(thing_dataset_id_to_contiguous_id=given) == given

    def test_without_classes_it_is_the_order_of_the_ids(self):
        assert self.classes({4: ("x",), 9: ("y",)}) == {4: 0, 9: 1}

    def test_the_names_decide_where_there_are_classes(self):
        assert self.classes(thing_classes=BOLT_LEAF_CUP) == {1: 0, 2: 1, 3: 2}
        assert self.classes(thing_classes=CUP_BOLT_LEAF) == {1: 1, 2: 2, 3: 0}
        # LVIS's classes are called by synonyms.
        assert self.classes(thing_classes=["bolt", "sheet", "cup"]) == {1: 0, 2: 1, 3: 2}
        # A file that names none is taken at its word.
        assert self.classes({1: (), 2: ()}, thing_classes=["a", "b"]) == {1: 0, 2: 1}

    def test_other_names_are_refused(self):
        with raises_naming(ValueError, "toy.json", "class 1", "'leaf'", "'nut'"):
            self.classes(thing_classes=["bolt", "nut", "cup"])


def lvis_document(names):
    document = {
        "categories": categories(names),
        "images": [image(1, neg_category_ids=[], not_exhaustive_category_ids=[])],
        "annotations": [annotation(number, 1, number) for number in (1, 2, 3)],
    }
    return copy.deepcopy(document)


def classes_of_records():
    (record,) = DatasetCatalog.get(NAME)
    return [item["category_id"] for item in record["annotations"]]


class TestLVIS:
    def register(self, tmp_path, names, **options):
        path = write(tmp_path / "toy.json", lvis_document(names))
        register_lvis_instances(NAME, path, tmp_path, **options)

    def test_names_are_known_once_it_is_read(self, tmp_path):
        self.register(tmp_path, CUP_BOLT_LEAF)
        assert class_names(NAME, read=False) == []
        assert class_names(NAME) == CUP_BOLT_LEAF

    def test_registered_names_in_another_order_are_those_of_the_file(self, tmp_path):
        self.register(tmp_path, BOLT_LEAF_CUP, metadata={"thing_classes": CUP_BOLT_LEAF})
        assert classes_of_records() == [1, 2, 0]

    def test_registered_names_that_the_file_does_not_have(self, tmp_path):
        self.register(tmp_path, BOLT_LEAF_CUP, metadata={"thing_classes": ["cup", "bolt", "nut"]})
        with raises_naming(ValueError, NAME, "class 0", "'bolt'", "'cup'"):
            DatasetCatalog.get(NAME)

    def test_as_many_categories_with_other_ids_are_another_set(self, tmp_path):
        document = lvis_document(CUP_BOLT_LEAF)
        document["categories"][2]["id"] = document["annotations"][2]["category_id"] = 4
        path = write(tmp_path / "toy.json", document)
        register_lvis_instances(NAME, path, tmp_path, metadata={"thing_classes": CUP_BOLT_LEAF})
        with raises_naming(ValueError, NAME, "3 categories", "1 to 3", "id 3"):
            load_lvis_json(path, tmp_path, NAME)

    def test_the_same_classes_are_mapped(self, tmp_path, caplog):
        self.register(tmp_path, BOLT_LEAF_CUP)
        with caplog.at_level(logging.INFO):
            align_classes(NAME, CUP_BOLT_LEAF, "the model")
        assert_names(caplog.records[-1].getMessage(), NAME, "the model")
        assert class_names(NAME) == CUP_BOLT_LEAF
        assert classes_of_records() == [1, 2, 0]
        assert MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id == {1: 1, 2: 2, 3: 0}
        assert compute_class_stats(NAME).class_names == tuple(CUP_BOLT_LEAF)
        # Once more to another order, and to the same.
        for _ in range(2):
            align_classes(NAME, BOLT_LEAF_CUP, "another model")
            assert classes_of_records() == [0, 1, 2]

    def test_other_classes_are_refused(self, tmp_path):
        self.register(tmp_path, BOLT_LEAF_CUP)
        with raises_naming(ValueError, NAME, "the model", "class 0", "'bolt'", "'nut'"):
            align_classes(NAME, ["nut", "leaf", "cup"], "the model")
        assert class_names(NAME) == BOLT_LEAF_CUP

    def test_a_loader_of_its_own_cannot_be_mapped(self):
        DatasetCatalog.register(NAME, lambda: [])
        MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=BOLT_LEAF_CUP)
        align_classes(NAME, BOLT_LEAF_CUP, "the model")
        with raises_naming(ValueError, NAME, "the model", "class 0", "'bolt'", "'cup'"):
            align_classes(NAME, CUP_BOLT_LEAF, "the model")


def test_lists_of_images_are_mapped(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "list.txt").write_text("a.jpg 2\nb.jpg 0\nc.jpg 1\n")
    register_image_list(NAME, tmp_path / "list.txt", tmp_path, classes=BOLT_LEAF_CUP)
    align_classes(NAME, CUP_BOLT_LEAF, "the model", for_training=True)
    # They are cup, bolt and leaf.
    assert [record["label"] for record in DatasetCatalog.get(NAME)] == [0, 1, 2]
    assert MetadataCatalog.get(NAME).load_labels() == [0, 1, 2]
    assert class_names(NAME) == CUP_BOLT_LEAF
    assert compute_class_stats(NAME).image_count.tolist() == [1, 1, 1]


def test_label_maps_are_mapped_in_testing_alone(tmp_path):
    register_sem_seg(NAME, tmp_path, tmp_path, BOLT_LEAF_CUP)
    with raises_naming(ValueError, NAME, "the model", "class 0", "'bolt'", "'cup'"):
        align_classes(NAME, CUP_BOLT_LEAF, "the model", for_training=True)
    align_classes(NAME, CUP_BOLT_LEAF, "the model")
    assert MetadataCatalog.get(NAME).get(MODEL_CLASSES) == CUP_BOLT_LEAF
    assert class_names(NAME) == BOLT_LEAF_CUP
    align_classes(NAME, BOLT_LEAF_CUP, "another model")
    assert MetadataCatalog.get(NAME).get(MODEL_CLASSES) is None
