# SPDX-License-Identifier: Apache-2.0
"""What makes cached RoI features others: each part of the index by itself."""

import dataclasses

import pytest
from disalign.roi_cache_index import Index, expected_index

from tests.messages import raises_naming
from tests.tiny_detection import detector_config

INDEX = Index(
    version=2,
    weights="a",
    data="b",
    config={"X": 1},
    class_names=["cup", "bolt"],
    num_images=6,
    images_per_shard=4,
    epochs=2,
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"version": 1}, ["version of the format"]),
        ({"class_names": ["bolt", "cup"]}, ["list of classes"]),
        ({"weights": "c"}, ["file of weights"]),
        ({"data": "c"}, ["training set"]),
        ({"num_images": 5}, ["training set"]),
        ({"config": {"X": 2}}, ["config (X)"]),
        ({"config": {"X": 1, "Y": None, "Z": 0}}, ["config (Z)"]),
        # How the features are stored does not matter.
        ({"epochs": 5, "images_per_shard": 9}, []),
    ],
    ids=str,
)
def test_differences(change, expected):
    other = dataclasses.replace(INDEX, **change)
    assert INDEX.differences(other) == other.differences(INDEX) == expected


RECORD = {
    "file_name": "/data/train/0001.png",
    "height": 64,
    "width": 48,
    "annotations": [{"category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0}],
}


@pytest.fixture
def index(tmp_path):
    """A function that gives the index of a record, with values of the config replaced."""
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    own = ["MODEL.META_ARCHITECTURE", "DisAlignRCNN", "MODEL.WEIGHTS", str(weights)]

    def get(record=RECORD, *overrides):
        return expected_index(detector_config(tmp_path, [*own, *overrides]), [record])

    return get


@pytest.mark.parametrize(
    "change",
    [
        {"file_name": "/data/train/0002.png"},
        {"height": 65},
        {"width": 49},
        {"annotations": [{"category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}]},
        {"annotations": [{"category_id": 2, "bbox": [1, 2, 3, 5], "iscrowd": 0}]},
        {"annotations": [{"category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 1}]},
        {"annotations": []},
    ],
    ids=str,
)
def test_other_records_are_another_training_set(index, change):
    assert index().differences(index({**RECORD, **change})) == ["training set"]


def test_where_images_lie_and_what_is_not_read_does_not_matter(index):
    moved = {**RECORD, "file_name": "/elsewhere/0001.png", "image_id": 7}
    moved["annotations"] = [{**RECORD["annotations"][0], "area": 12, "segmentation": [[0] * 6]}]
    assert index().differences(index(moved)) == []


@pytest.mark.parametrize(
    ("key", "value", "matters"),
    [
        ("MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0], True),
        ("MODEL.PIXEL_STD", [2.0, 2.0, 2.0], True),
        ("MODEL.FPN.FUSE_TYPE", "avg", True),
        ("INPUT.FORMAT", "RGB", True),
        ("MODEL.DEVICE", "meta", False),
        ("MODEL.DISALIGN.CONFIDENCE", False, False),
        ("SOLVER.MAX_ITER", 7, False),
    ],
)
def test_which_keys_matter(index, key, value, matters):
    expected = [f"config ({key})"] if matters else []
    assert index().differences(index(RECORD, key, value)) == expected


def test_weights_count_by_their_content(index, tmp_path):
    same, other = tmp_path / "same.pth", tmp_path / "other.pth"
    same.write_bytes(b"weights")
    other.write_bytes(b"weightz")
    assert index().differences(index(RECORD, "MODEL.WEIGHTS", str(same))) == []
    assert index().differences(index(RECORD, "MODEL.WEIGHTS", str(other))) == ["file of weights"]


def test_a_cache_has_an_epoch(tmp_path, index):
    weights = ["MODEL.META_ARCHITECTURE", "DisAlignRCNN", "MODEL.WEIGHTS", "nowhere.pth"]
    with raises_naming(ValueError, "1 epoch", "0"):
        expected_index(detector_config(tmp_path, weights), [RECORD], epochs=0)
