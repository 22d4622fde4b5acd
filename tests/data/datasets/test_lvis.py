# SPDX-License-Identifier: Apache-2.0
"""LVIS's JSON: the records of detectron2's own loader, RLE, registration, and one-line errors."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets import lvis as detectron2_lvis
from detectron2.data.datasets.builtin import _PREDEFINED_SPLITS_LVIS
from PIL import Image
from pycocotools import mask as mask_util

from longtail.data.datasets import load_lvis_json, register_lvis_instances
from longtail.data.statistics.class_stats import compute_class_stats
from tests.data.lvis_documents import (
    annotation,
    forget,
    image,
    official_document,
    small_document,
    write,
)

NAME = "toy_lvis"


@pytest.fixture(autouse=True)
def free_name():
    yield
    forget(NAME)


@pytest.fixture
def load(tmp_path):
    """Write a document, register it and load it."""

    def load(document):
        register_lvis_instances(NAME, write(tmp_path / "toy.json", document), tmp_path)
        return DatasetCatalog.get(NAME)

    return load


@pytest.mark.parametrize("version", ["v1", "v0.5"])
def test_records_equal_those_of_detectron2(tmp_path, version):
    path = write(tmp_path / "lvis.json", official_document(version))
    name = f"lvis_{version}_train"
    expected = detectron2_lvis.load_lvis_json(str(path), "coco/", name)
    records = load_lvis_json(path, "coco/", name)
    assert records == expected
    # Said once without detectron2: sorted by id, file by coco_url, classes from 0.
    assert [record["image_id"] for record in records] == [7, 8, 9]
    assert records[2]["file_name"] == "coco/train2017/000000000009.jpg"
    classes = [[item["category_id"] for item in record["annotations"]] for record in records]
    assert classes == [[0, 0], [], [1202 if version == "v1" else 1229, 2]]


def test_categories_that_detectron2_maps_to_coco_are_mapped(tmp_path):
    document = small_document()
    ids = MetadataCatalog.get("coco_2017_train").thing_dataset_id_to_contiguous_id
    assert ids[90] == 79
    # Under names of their own: here the ids decide.
    document["categories"] = [{"id": i, "name": str(i)} for i in ids]
    document["annotations"] = [annotation(1, 2, 90)]
    path = write(tmp_path / "lvis.json", document)
    name = "lvis_v0.5_val_cocofied"
    records = load_lvis_json(path, "coco/", name)
    assert records == detectron2_lvis.load_lvis_json(str(path), "coco/", name)
    assert records[1]["annotations"][0]["category_id"] == 79


def test_real_annotations_equal_those_of_detectron2(shared_data):
    path = str(shared_data / "lvis" / "lvis_val_100.json")
    records = load_lvis_json(path, "coco/", "lvis_v0.5_val")
    assert records == detectron2_lvis.load_lvis_json(path, "coco/", "lvis_v0.5_val")
    assert sum(len(record["annotations"]) for record in records) == 977


def test_the_lvis_package_is_not_needed(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    assert len(load(small_document())) == 2
    with pytest.raises(ImportError):
        detectron2_lvis.load_lvis_json("any.json", "coco/")


def test_official_names_and_metadata_are_detectron2s(root):
    for version, splits in _PREDEFINED_SPLITS_LVIS.items():
        for name, (images, json_file) in splits.items():
            metadata = MetadataCatalog.get(name).as_dict()
            assert metadata == {
                "name": name,
                "json_file": str(root / json_file),
                "image_root": f"{root}/{images}",
                "evaluator_type": "lvis",
                **detectron2_lvis.get_lvis_instances_meta(version),
            }
    with pytest.raises(FileNotFoundError) as caught:
        DatasetCatalog.get("lvis_v1_train")
    message = str(caught.value)
    assert message.startswith(f"lvis_v1_train: {root}/lvis/lvis_v1_train.json is missing; take it")
    assert message.endswith("'longtail prepare lvis' says what belongs where")


@pytest.mark.parametrize("kind", ["compressed", "uncompressed"])
def test_rle_reaches_the_masks_of_training(tmp_path, load, kind):
    mask = np.zeros((24, 32), dtype=np.uint8, order="F")
    mask[3:13, 2:12] = 1
    mask[6:9, 5:8] = 0
    if kind == "compressed":
        rle = mask_util.encode(mask)
        rle["counts"] = rle["counts"].decode()
    else:
        runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
        rle = {"size": [24, 32], "counts": np.diff([0, *runs, mask.size]).tolist()}
    document = small_document()
    document["annotations"] = [annotation(1, 1, 2, segmentation=rle)]
    (record, _) = load(document)
    Path(record["file_name"]).parent.mkdir()
    Image.new("RGB", (32, 24)).save(record["file_name"])
    mapper = DatasetMapper(
        True,
        augmentations=[T.NoOpTransform()],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    instances = mapper(record)["instances"]
    assert np.array_equal(instances.gt_masks.tensor[0].numpy(), mask.astype(bool))
    assert instances.gt_classes.tolist() == [1]
    assert instances.gt_boxes.tensor.tolist() == [[2, 3, 12, 13]]


def test_classes_and_ids_of_the_file_itself(load):
    document = small_document()
    document["categories"] = [{"id": 30, "name": "plate"}, {"id": 4, "name": "cup"}]
    document["annotations"] = [annotation(1, 2, 30), annotation(2, 2, 4)]
    document["images"][0] = {"id": 1, "height": 24, "width": 32, "file_name": "a/b/c.jpg"}
    records = load(document)
    assert MetadataCatalog.get(NAME).thing_classes == ["cup", "plate"]
    assert MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id == {4: 0, 30: 1}
    assert [item["category_id"] for item in records[1]["annotations"]] == [1, 0]
    assert records[0]["file_name"].endswith("a/b/c.jpg")
    stats = compute_class_stats(NAME)
    assert stats.class_names == ("cup", "plate")


def test_ids_from_one_need_no_mapping(load):
    load(small_document())
    assert MetadataCatalog.get(NAME).get("thing_dataset_id_to_contiguous_id") is None


def test_class_statistics_count_instances_and_images(load):
    document = small_document()
    document["annotations"] = [annotation(i, i // 2 + 1, 2) for i in range(3)]
    load(document)
    stats = compute_class_stats(NAME)
    assert stats.instance_count.tolist() == [0, 3]
    assert stats.image_count.tolist() == [0, 2]
    assert stats.num_images == 2


def test_a_test_set_has_records_without_annotations(load):
    document = small_document()
    del document["annotations"]
    records = load(document)
    assert len(records) == 2
    assert all("annotations" not in record for record in records)
    with pytest.raises(ValueError, match=f"'{NAME}' has no classes to count"):
        compute_class_stats(NAME)


def _without(document, section, key):
    del document[section][0][key]


def _change(section, **values):
    return lambda document: document[section][0].update(values)


RLE = {"size": [3, 4], "counts": "abc"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("images"), "no list under the key 'images'"),
        (lambda d: d.pop("categories"), "no list under the key 'categories'"),
        (lambda d: d.update(annotations={}), "no list under the key 'annotations'"),
        (lambda d: _without(d, "images", "height"), "image 1 has no 'height'"),
        (lambda d: _without(d, "images", "coco_url"), "image 1 has neither coco_url nor file_name"),
        (lambda d: _without(d, "categories", "name"), "category 1 has no 'name'"),
        (lambda d: _without(d, "annotations", "bbox"), "annotation 10 has no 'bbox'"),
        (
            lambda d: _without(d, "annotations", "id"),
            r"annotation \(without id\) has no 'id'",
        ),
        (lambda d: d["annotations"].append(5), r"annotation entries .*: 5$"),
        (lambda d: d["images"].append(image(1)), "the id 1 .* image"),
        (
            lambda d: d["annotations"].append(annotation(10, 2, 1)),
            "the id 10 .* annotation",
        ),
        (
            lambda d: d["categories"].append({"id": 1, "name": "x"}),
            "the id 1 .* category",
        ),
        (_change("annotations", image_id=3), "annotation 10 has the unknown image_id 3"),
        (_change("annotations", category_id=3), "annotation 10 has the unknown category_id 3"),
        (_change("annotations", category_id=0), "annotation 10 has the unknown category_id 0"),
        (_change("annotations", bbox=[1, 2]), r"annotation 10 has the bbox \[1, 2\]"),
        (_change("annotations", segmentation=[[1, 2, 3, 4]]), "annotation 10 has an invalid pol"),
        (_change("annotations", segmentation=[[1] * 7]), "annotation 10 has an invalid polygon"),
        (
            _change("annotations", segmentation=RLE),
            r"annotation 10 has an RLE .* \[3, 4\], expected .* \[24, 32\]",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(load, damage, message):
    document = copy.deepcopy(small_document())
    damage(document)
    with pytest.raises(ValueError, match=rf"^{NAME}: .*toy\.json: .*{message}") as caught:
        load(document)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", '{"images": [{"id": 1', "<html>\n", "\x80"])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"^x: .*broken\.json is cut short") as caught:
        load_lvis_json(path, tmp_path, "x")
    assert "\n" not in str(caught.value)
    forget("x")


def test_a_list_is_no_document(tmp_path):
    path = write(tmp_path / "results.json", [])
    with pytest.raises(ValueError, match=r"results\.json holds a list, expected "):
        load_lvis_json(path, tmp_path, "x")


def test_a_file_of_another_data_set_is_refused(tmp_path):
    path = write(tmp_path / "small.json", small_document())
    with pytest.raises(ValueError, match=r"small\.json: 2 categories, but .* with 1203 \(ids 1 to"):
        load_lvis_json(path, tmp_path, "lvis_v1_val")


def test_nothing_is_read_before_the_data_set_is_used(tmp_path):
    path = tmp_path / "later.json"
    register_lvis_instances(NAME, path, tmp_path, hint="run the tool")
    with pytest.raises(FileNotFoundError, match=r"^toy_lvis: .*later\.json is missing; run the to"):
        DatasetCatalog.get(NAME)
    path.write_text(json.dumps(small_document()))
    assert len(DatasetCatalog.get(NAME)) == 2
