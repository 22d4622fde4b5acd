# SPDX-License-Identifier: Apache-2.0
"""Masks as polygons, and the counts and letters of LVIS's categories."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from longtail.data.formats.lvis_writer import (
    instance_annotation,
    lvis_documents,
    mask_polygons,
    write_document,
)
from longtail.data.statistics.groups import frequency_letter


def rasterised(polygons, shape):
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, *shape))).astype(bool)


def test_corners_of_an_l_are_pixel_edges():
    # Rows 1 and 2, columns 2 to 4; of row 1 only column 2: clockwise, or the other way round.
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 2] = True
    mask[2, 2:5] = True
    (polygon,) = mask_polygons(mask)
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    assert len(points) == 6
    assert set(points) == {(2, 1), (3, 1), (3, 2), (5, 2), (5, 3), (2, 3)}


def test_any_mask_comes_back_exactly():
    """Noise has every case: holes, holes in holes, pixels that touch at a corner, borders."""
    rng = np.random.default_rng(0)
    holes = 0
    for _ in range(500):
        shape = tuple(rng.integers(1, 16, 2))
        mask = rng.random(shape) < rng.uniform(0.05, 0.97)
        mask[rng.integers(shape[0]), rng.integers(shape[1])] = True
        polygons = mask_polygons(mask)
        assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)
        np.testing.assert_array_equal(rasterised(polygons, shape), mask)
        holes += len(polygons) > 1
    assert holes > 200


def test_a_ring_is_cut_in_parts_that_do_not_overlap():
    y, x = np.mgrid[:40, :50]
    distance = np.hypot(y - 20, x - 25)
    mask = (distance < 15) & (distance > 8)
    polygons = mask_polygons(mask)
    assert len(polygons) >= 2
    parts = [rasterised([polygon], mask.shape) for polygon in polygons]
    np.testing.assert_array_equal(np.sum(parts, axis=0), mask)


def test_box_and_area_of_an_annotation():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 10:12] = True
    mask[15, 29] = True
    annotation = instance_annotation(mask, 3)
    assert annotation["category_id"] == 3
    # x from 10 to 30, y from 4 to 16.
    assert annotation["bbox"] == [10, 4, 20, 12]
    assert annotation["area"] == 5 * 2 + 1
    assert len(annotation["segmentation"]) == 2


@pytest.mark.parametrize(
    ("images", "letter"),
    [(0, "r"), (1, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f"), (5000, "f")],
)
def test_frequency_letters(images, letter):
    assert frequency_letter(images) == letter


def test_documents_number_everything_and_count_the_training_set(tmp_path):
    def of(*category_ids):
        return [{"category_id": number} for number in category_ids]

    # Category 3 is in 10 images, with 11 instances: the images decide that it is rare.
    train = [({"height": 1}, of(1, 1)), ({"height": 2}, of()), *[({}, of(1, 3))] * 9]
    train.append(({}, of(1, 3, 3)))
    val = [({}, of(2)), ({}, of(3, 2))]
    documents = lvis_documents(["a", "b", "c"], {"val": val, "train": train})
    for split in ("train", "val"):
        rows = documents[split]["categories"]
        assert [row["id"] for row in rows] == [1, 2, 3]
        assert [row["name"] for row in rows] == ["a", "b", "c"]
        assert [row["image_count"] for row in rows] == [11, 0, 10]
        assert [row["instance_count"] for row in rows] == [12, 0, 11]
        assert [row["frequency"] for row in rows] == ["c", "r", "r"]
    assert documents["val"]["images"] == [{"id": 1}, {"id": 2}]
    assert documents["val"]["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2},
        {"id": 2, "image_id": 2, "category_id": 3},
        {"id": 3, "image_id": 2, "category_id": 2},
    ]
    write_document(tmp_path / "val.json", documents["val"])
    assert json.loads((tmp_path / "val.json").read_text()) == documents["val"]
