# SPDX-License-Identifier: Apache-2.0
"""iNaturalist's JSON: class indices in the order of the category ids."""

import copy
import json

import pytest

from longtail.data.formats.inaturalist import read_inaturalist
from tests.messages import raises_naming

DOCUMENT = {
    "images": [{"id": 8, "file_name": "b.jpg"}, {"id": 2, "file_name": "a.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 2, "category_id": 30},
        {"id": 2, "image_id": 8, "category_id": 4},
    ],
    "categories": [{"id": 30, "name": "owl"}, {"id": 4, "name": "bat"}],
}


def read(tmp_path, document):
    (tmp_path / "toy.json").write_text(json.dumps(document))
    return read_inaturalist(tmp_path / "toy.json")


def test_images_labels_and_names(tmp_path):
    found = read(tmp_path, DOCUMENT)
    # In the order of the annotations; the category 4 comes first.
    assert (found.files, found.labels) == (["a.jpg", "b.jpg"], [1, 0])
    assert found.class_names == ["bat", "owl"]


@pytest.mark.parametrize(
    ("section", "values", "facts"),
    [
        ("categories", {"name": None}, ["category 4", "name None"]),
        ("categories", {"name": "owl"}, ["'owl'", "4, 30"]),
        ("categories", {"id": 4.0}, ["category id 4.0"]),
        ("categories", {"id": 30}, ["id 30", "category"]),
        ("images", {"id": 8}, ["id 8", "image"]),
        ("images", {"id": [2]}, ["image id [2]"]),
        ("images", {"file_name": 5}, ["image 2", "file_name 5"]),
        ("annotations", {"image_id": [8]}, ["image [8]"]),
        ("annotations", {"category_id": True}, ["category True"]),
    ],
    ids=str,
)
def test_a_value_that_is_wrong_is_named(tmp_path, section, values, facts):
    document = copy.deepcopy(DOCUMENT)
    document[section][1].update(values)
    with raises_naming(ValueError, *facts):
        read(tmp_path, document)


def test_a_list_is_not_a_document(tmp_path):
    with raises_naming(ValueError, "object"):
        read(tmp_path, [DOCUMENT])
