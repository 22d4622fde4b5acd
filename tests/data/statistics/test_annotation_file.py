# SPDX-License-Identifier: Apache-2.0
"""Class statistics of COCO's and LVIS's JSON: kept by the file's content, and then without it."""

import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import coco as detectron2_coco
from detectron2.data.datasets import lvis as detectron2_lvis

from longtail.data.datasets.coco import register_coco_json
from longtail.data.datasets.lvis import register_lvis_instances
from longtail.data.statistics.annotation_file import annotation_file
from longtail.data.statistics.class_stats import get_class_stats, locate_class_stats
from tests.data.lvis_documents import annotation, forget, small_document, write

NAME = "toy_annotation_file"
META = {"thing_classes": ["cup", "plate"]}
REGISTRATIONS = {
    "ours": lambda path: register_lvis_instances(NAME, path, path.parent, metadata=META),
    "our COCO": lambda path: register_coco_json(
        NAME, path, path.parent, **{"classes": META["thing_classes"]}
    ),
    "detectron2 COCO": lambda path: detectron2_coco.register_coco_instances(
        NAME, dict(META), str(path), str(path.parent)
    ),
    "detectron2 LVIS": lambda path: detectron2_lvis.register_lvis_instances(
        NAME, dict(META), str(path), str(path.parent)
    ),
}


@pytest.fixture
def document(tmp_path):
    """The JSON file of two images, the second class once in the first of them."""
    content = small_document()
    for item in content["images"]:
        item["file_name"] = f"{item['id']}.jpg"
        (tmp_path / item["file_name"]).touch()
    yield write(tmp_path / "toy.json", content)
    forget(NAME)


@pytest.fixture
def parsed(monkeypatch):
    """The files that were parsed; a warm start parses none of the data set's."""
    found, load = [], json.load
    monkeypatch.setattr(json, "load", lambda file: found.append(file.name) or load(file))
    return found


def with_an_instance(path, category_id):
    content = json.loads(path.read_text())
    content["annotations"].append(annotation(77, 2, category_id))
    return json.dumps(content)


@pytest.mark.parametrize("kind", ["ours", "our COCO", "detectron2 COCO"])
def test_kept_statistics_parse_no_annotation(document, parsed, kind):
    REGISTRATIONS[kind](document)
    first = get_class_stats(NAME)
    assert first.instance_count.tolist() == [0, 1] and first.num_images == 2
    assert parsed == [str(document)]
    # As a new process knows it: some data sets know more once they are read.
    forget(NAME)
    REGISTRATIONS[kind](document)
    assert get_class_stats(NAME) == first
    assert parsed == [str(document)]


@pytest.mark.parametrize("kind", [*REGISTRATIONS])
def test_the_file_of_known_loaders(document, kind):
    REGISTRATIONS[kind](document)
    assert annotation_file(NAME) == str(document)
    document.unlink()
    assert annotation_file(NAME) is None


def test_other_functions_are_read_as_before(document, register):
    """Even where the metadata name a file: what such a function reads is not known."""
    records = [{"file_name": "a.jpg", "annotations": [{"category_id": 0}]}]
    name = register("toy_other", records, json_file=str(document), **META)
    assert annotation_file(name) is None
    assert get_class_stats(name).instance_count.tolist() == [1, 0]
    records[0]["annotations"].append({"category_id": 1})
    assert get_class_stats(name).instance_count.tolist() == [1, 1]


def test_the_content_of_the_file_decides(document, parsed, tmp_path, monkeypatch):
    """Also for a change that keeps size and time; a copy elsewhere is the same content."""
    REGISTRATIONS["ours"](document)
    get_class_stats(NAME)
    before = document.stat()
    text = document.read_text().replace('"category_id": 2', '"category_id": 1')
    document.write_text(text)
    os.utime(document, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert document.stat().st_size == before.st_size
    assert get_class_stats(NAME).instance_count.tolist() == [1, 0]

    document.write_text(with_an_instance(document, 2))
    assert get_class_stats(NAME).instance_count.tolist() == [1, 1]
    count = len(parsed)
    copy = tmp_path / "elsewhere" / "other.json"
    copy.parent.mkdir()
    copy.write_text(document.read_text())
    REGISTRATIONS["ours"](copy)
    assert get_class_stats(NAME).instance_count.tolist() == [1, 1]
    assert len(parsed) == count


def test_other_classes_of_the_same_file_are_other_statistics(document):
    """The same categories with other indices, as data sets are aligned to a model."""
    REGISTRATIONS["ours"](document)
    assert get_class_stats(NAME).instance_count.tolist() == [0, 1]
    mapping = {1: 1, 2: 0}
    metadata = {"thing_classes": ["plate", "cup"], "thing_dataset_id_to_contiguous_id": mapping}
    register_lvis_instances(NAME, document, document.parent, metadata=metadata)
    turned = get_class_stats(NAME)
    assert turned.class_names == ("plate", "cup")
    assert turned.instance_count.tolist() == [1, 0]


def test_the_digest_is_kept_once_the_file_is_settled(document, cache, monkeypatch):
    REGISTRATIONS["ours"](document)
    digests = cache.parent / "file_digests"
    stats, path = locate_class_stats(NAME)
    assert not digests.exists(), "a file that may still change within a step of the clock"
    an_hour_ago = document.stat().st_mtime_ns - 3600 * 10**9
    os.utime(document, ns=(an_hour_ago, an_hour_ago))
    assert locate_class_stats(NAME) == (stats, path)
    [kept] = digests.iterdir()

    def fail(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("longtail.data.statistics.annotation_file.file_sha256", fail)
    assert locate_class_stats(NAME) == (stats, path)
    kept.write_text(kept.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(AssertionError, match=r"toy\.json was read"):
        locate_class_stats(NAME)


def test_a_cache_that_cannot_be_written_is_one_warning(document, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "file"))
    os.utime(document, ns=(10**18, 10**18))
    REGISTRATIONS["ours"](document)
    assert locate_class_stats(NAME)[1] is None
    assert [NAME in record.getMessage() for record in caplog.records].count(True) == 1
    assert len(caplog.records) == 1


def test_metadata_stay_unknown_and_are_completed_by_reading(document):
    """Statistics of a data set that knows its classes only once it is read."""
    register_lvis_instances(NAME, document, document.parent)
    assert get_class_stats(NAME).class_names == ("cup", "plate")
    register_lvis_instances(NAME, document, document.parent)
    assert get_class_stats(NAME).class_names == ("cup", "plate")
    assert MetadataCatalog.get(NAME).get("thing_classes") is None
    DatasetCatalog.get(NAME)
    assert MetadataCatalog.get(NAME).thing_classes == ["cup", "plate"]
    assert get_class_stats(NAME).class_names == ("cup", "plate")
