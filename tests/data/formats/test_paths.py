# SPDX-License-Identifier: Apache-2.0
"""Paths in files of strangers: what stays below the folder, and what does not."""

import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets import register_image_list
from longtail.data.formats.inaturalist import read_inaturalist
from longtail.data.formats.lvis_reader import read_lvis_json
from longtail.data.formats.lvis_records import lvis_records
from longtail.data.formats.paths import path_below

OUTSIDE = ["../x.jpg", "a/../../x.jpg", "..", "a/..", "/etc/x.jpg", "C:/x.jpg", "..\\x.jpg", "\\x"]
BELOW = ["x.jpg", "a/b c/x.jpg", "a/..x.jpg", "x...jpg", "./x.jpg", "ü/x.jpg"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_leave_the_folder(path):
    with pytest.raises(ValueError, match=r"^line 3: the path '.*' leads out of the folder"):
        path_below("images", path, "line 3")


@pytest.mark.parametrize("path", [None, "", 3, ["a"]])
def test_what_is_not_a_path(path):
    with pytest.raises(ValueError, match=r"^line 3: the path .* is not the name of a file"):
        path_below("images", path, "line 3")


@pytest.mark.parametrize("path", BELOW)
def test_paths_below_the_folder(path):
    assert path_below("images", path, "line 3") == "images" + os.sep + path


@pytest.fixture
def name():
    yield "test_paths"
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "test_paths" in catalog:
            catalog.remove("test_paths")


@pytest.mark.parametrize("path", ["../x.jpg", "/x.jpg"])
@pytest.mark.parametrize("kind", ["list", "json"])
def test_image_lists(tmp_path, name, kind, path):
    """Text lists and iNaturalist's JSON; the file outside exists."""
    (tmp_path / "images").mkdir()
    (tmp_path / "x.jpg").touch()
    options = {}
    if kind == "json":
        content = {
            "images": [{"id": 1, "file_name": path}],
            "annotations": [{"image_id": 1, "category_id": 5}],
            "categories": [{"id": 5, "name": "oak"}],
        }
        (tmp_path / "list").write_text(json.dumps(content))
        options["read"] = read_inaturalist
    else:
        (tmp_path / "list").write_text(f"{path} 0\n")
    register_image_list(name, tmp_path / "list", tmp_path / "images", **options)
    expected = f"^test_paths: .*list: entry 1: the path '{path}' leads out of the folder"
    for use in (lambda: DatasetCatalog.get(name), lambda: MetadataCatalog.get(name).load_labels()):
        with pytest.raises(ValueError, match=expected):
            use()


@pytest.mark.parametrize(
    "image",
    [
        {"file_name": "../x.jpg"},
        {"file_name": "/x.jpg"},
        {"coco_url": "http://images/../x.jpg", "file_name": "a.jpg"},
    ],
)
def test_images_of_lvis(tmp_path, image):
    content = {
        "categories": [{"id": 1, "name": "cup"}],
        "images": [{"id": 7, "height": 2, "width": 2, **image}],
        "annotations": [],
    }
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    read = read_lvis_json(tmp_path / "lvis.json")
    with pytest.raises(ValueError, match=r"lvis\.json: image 7: the path '.*' leads out of the"):
        lvis_records(read, "images", {1: 0})


def test_byte_order_marks_of_lists_and_json(tmp_path, name):
    """As some editors of Windows put in front: no part of a name, and valid JSON."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.jpg").touch()
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfx.jpg 0\r\n")
    register_image_list(name, tmp_path / "list", tmp_path / "images", classes=["oak"])
    assert [record["label"] for record in DatasetCatalog.get(name)] == [0]
    document = {"categories": [], "images": [], "annotations": []}
    (tmp_path / "lvis.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert read_lvis_json(tmp_path / "lvis.json").images == []
    assert read_inaturalist(tmp_path / "lvis.json").files == []
