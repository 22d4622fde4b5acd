# SPDX-License-Identifier: Apache-2.0
"""longtail prepare camvid_instances: connected regions of label maps as objects."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from longtail.data.datasets import camvid
from longtail.data.datasets.lvis import CAMVID_OBJECTS
from longtail.data.formats.images import read_label_map
from longtail.data.prepare import prepare_dataset
from longtail.data.prepare.camvid_instances import label_objects
from longtail.data.statistics.class_stats import compute_class_stats
from tests.data.sources import run_tool, save_image, save_label

# Class indices of CamVid: sky, building, pole, road, pavement, tree, sign symbol, fence, car, ...
POLE, ROAD, CAR = 2, 3, 8
# Category ids: pole, sign symbol, fence, car, pedestrian, bicyclist.
POLE_ID, CAR_ID = 1, 4


def street():
    """Two cars (one a diagonal of squares), a sliver of a car, a sliver of a pole; void between."""
    labels = np.full((30, 40), ROAD)
    labels[2:6, 2:6] = CAR  # 16 pixels
    labels[10:14, 10:14] = CAR
    labels[14:18, 14:18] = CAR  # touches the last one at a corner: 8-connected
    labels[20:25, 30:33] = CAR  # 15 pixels: too small
    labels[0, 20:35] = POLE  # 15 pixels
    labels[8] = 255
    return labels


def test_regions_are_objects_and_slivers_are_not():
    objects, absent = label_objects(street())
    assert [number for number, _ in objects] == [CAR_ID, CAR_ID]
    assert sorted(mask.sum() for _, mask in objects) == [16, 32]
    # The pole is there, though too small: nothing is claimed about poles.
    assert absent == [2, 3, 5, 6]


def make_prepared(root, splits=("train", "val")):
    for split in splits:
        for stem in ("a", "b"):
            save_image(root / "camvid" / split / f"{stem}.png", size=(40, 30))
            labels = street() if stem == "a" else np.full((30, 40), ROAD)
            save_label(root / "camvid" / f"{split}annot_detectron2" / f"{stem}.png", labels)


def test_files_are_written_where_they_are_registered(root, capsys):
    make_prepared(root)
    assert run_tool("camvid_instances") == 0
    assert "camvid_instances: 2 written" in capsys.readouterr().out
    for split in ("train", "val"):
        records = DatasetCatalog.get(f"lvis_camvid_{split}")
        assert [r["file_name"] for r in records] == [
            str(root / "camvid" / split / f"{stem}.png") for stem in ("a", "b")
        ]
        assert [len(r["annotations"]) for r in records] == [2, 0]
        assert records[1]["neg_category_ids"] == [1, 2, 3, 4, 5, 6]
        metadata = MetadataCatalog.get(f"lvis_camvid_{split}")
        assert metadata.thing_classes[CAR_ID - 1] == "Car"
        car = CAR_ID - 1
        assert {item["category_id"] for item in records[0]["annotations"]} == {car}
    stats = compute_class_stats("lvis_camvid_train")
    assert stats.instance_count[car] == stats.instance_count.sum() == 2
    content = json.loads((root / "camvid" / "lvis_camvid_val.json").read_text())
    row = content["categories"][car]
    assert (row["image_count"], row["instance_count"], row["frequency"]) == (1, 2, "r")


def test_what_is_missing_is_said_and_nothing_written(root, capsys):
    assert run_tool("camvid_instances").startswith(f"error: {root}/camvid/train is missing: run '")
    make_prepared(root, ("train",))
    assert "val is missing: run 'longtail" in run_tool("camvid_instances")
    make_prepared(root)
    (root / "camvid" / "val" / "a.png").unlink()
    assert "a.png has no image in" in run_tool("camvid_instances")
    label = root / "camvid" / "trainannot_detectron2" / "b.png"
    label.write_bytes(label.read_bytes()[:40])
    assert "b.png cannot be read as an image" in run_tool("camvid_instances")
    assert not list(root.rglob("*.json"))
    for option in ("--source", "--splits"):
        assert run_tool("camvid_instances", option, "x").startswith("error: camvid_instances")
    with pytest.raises(FileNotFoundError, match="longtail prepare camvid_instances"):
        DatasetCatalog.get("lvis_camvid_train")


def test_real_street_scenes(root, shared_data):
    source = shared_data / "camvid"
    prepare_dataset("camvid", str(root), source=str(source), splits=["val"])
    # The training set takes longer, and the first split only gives the counts.
    (root / "camvid" / "train").symlink_to(root / "camvid" / "val")
    (root / "camvid" / "trainannot_detectron2").symlink_to(root / "camvid" / "valannot_detectron2")
    prepare_dataset("camvid_instances", str(root))
    records = DatasetCatalog.get("lvis_camvid_val")
    assert len(records) == 101
    semantic = DatasetCatalog.get("camvid_sem_seg_val")
    covered = total = 0
    for record, other in list(zip(records, semantic, strict=True))[::10]:
        assert record["file_name"] == other["file_name"]
        labels = read_label_map(other["sem_seg_file_name"])
        union = np.zeros(labels.shape, dtype=int)
        for item in record["annotations"]:
            rle = mask_util.merge(mask_util.frPyObjects(item["segmentation"], *labels.shape))
            mask = mask_util.decode(rle).astype(bool)
            name = CAMVID_OBJECTS[item["category_id"]]
            assert np.all(labels[mask] == camvid.CLASSES.index(name))
            union += mask
        assert union.max() == 1
        covered += union.sum()
        total += np.isin(labels, [camvid.CLASSES.index(name) for name in CAMVID_OBJECTS]).sum()
    # What is left are the slivers.
    assert 0.97 < covered / total <= 1
