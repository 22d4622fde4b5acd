# SPDX-License-Identifier: Apache-2.0
"""iNaturalist's JSON: class indices in the order of the category ids."""

import json

from longtail.data.formats.inaturalist import read_inaturalist


def test_images_labels_and_names(tmp_path):
    document = {
        "images": [{"id": 8, "file_name": "b.jpg"}, {"id": 2, "file_name": "a.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 30},
            {"id": 2, "image_id": 8, "category_id": 4},
        ],
        "categories": [{"id": 30, "name": "owl"}, {"id": 4, "name": "bat"}],
    }
    (tmp_path / "toy.json").write_text(json.dumps(document))
    found = read_inaturalist(tmp_path / "toy.json")
    # In the order of the annotations; the category 4 comes first.
    assert (found.files, found.labels) == (["a.jpg", "b.jpg"], [1, 0])
    assert found.class_names == ["bat", "owl"]
