# SPDX-License-Identifier: Apache-2.0
"""longtail prepare: each conversion by hand, repetition, and real data."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.data.prepare import RECIPES, prepare_dataset
from tests.data.sources import (
    files_under,
    make_camvid,
    read_label,
    run_tool,
    save_image,
    save_label,
)

# COCO-Stuff: (first and last number of the release, first class index) of every unbroken run.
COCO_STUFF_RUNS = [
    (1, 11, 0),
    (13, 25, 11),
    (27, 28, 24),
    (31, 44, 26),
    (46, 65, 40),
    (67, 67, 60),
    (70, 70, 61),
    (72, 82, 62),
    (84, 90, 73),
    (92, 182, 80),
]
INDEX_OF_RELEASE = {
    number: start + number - first
    for first, last, start in COCO_STUFF_RUNS
    for number in range(first, last + 1)
}


def test_ade20k_other_becomes_255_and_the_rest_moves_down(root, capsys):
    source = root / "ADEChallengeData2016"
    rows = [[0, 1, 2], [149, 150, 0]]
    for folder, name in [("training", "ADE_train_1"), ("validation", "ADE_val_1")]:
        save_image(source / "images" / folder / f"{name}.jpg")
        save_label(source / "annotations" / folder / f"{name}.png", rows)
    assert run_tool("ade20k") == 0
    assert "ade20k: 2 written, 0 skipped (up to date), 0 problems" in capsys.readouterr().out
    for folder, name in [("training", "ADE_train_1"), ("validation", "ADE_val_1")]:
        written = source / "annotations_detectron2" / folder / f"{name}.png"
        assert read_label(written) == [[255, 0, 1], [148, 149, 255]]


def test_ade20k_writes_where_detectron2_reads():
    split = {split.name: split for split in RECIPES["ade20k"].splits("source", "datasets")}
    assert list(split) == ["train", "val"]
    for name in split:
        metadata = MetadataCatalog.get(f"ade20k_sem_seg_{name}")
        assert metadata.image_root.endswith(os.path.relpath(split[name].image_target, "datasets"))
        assert metadata.sem_seg_root.endswith(os.path.relpath(split[name].label_target, "datasets"))


def test_coco_stuff_164k_maps_each_number(root):
    numbers = sorted(INDEX_OF_RELEASE)
    assert len(numbers) == 171
    for folder in ("train2017", "val2017"):
        save_image(root / "coco" / folder / "000000000009.jpg", size=(172, 1))
        save_label(
            root / "coco" / "stuffthingmaps" / folder / "000000000009.png",
            [[number - 1 for number in numbers] + [255]],
        )
    assert run_tool("coco_stuff_164k") == 0
    for split in ("train", "val"):
        (record,) = DatasetCatalog.get(f"coco_stuff_164k_sem_seg_{split}")
        expected = [[INDEX_OF_RELEASE[number] for number in numbers] + [255]]
        assert read_label(record["sem_seg_file_name"]) == expected
        assert record["file_name"].endswith(f"coco/{split}2017/000000000009.jpg")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_coco_stuff_10k_maps_each_number_and_splits_by_list(root, tmp_path, dtype):
    source = tmp_path / "cocostuff-10k-v1.1"
    numbers = sorted(INDEX_OF_RELEASE)
    for i in range(3):
        save_image(source / "images" / f"COCO_{i}.jpg", size=(172, 1))
        row = np.array([[0, *numbers]], dtype=dtype)
        save_label(source / "annotations" / f"COCO_{i}.mat", row)
    (source / "imageLists").mkdir()
    (source / "imageLists" / "train.txt").write_text("COCO_2\nCOCO_0\n")
    (source / "imageLists" / "test.txt").write_text("COCO_1\n")
    assert run_tool("coco_stuff_10k", "--source", source) == 0
    records = DatasetCatalog.get("coco_stuff_10k_sem_seg_train")
    assert [Path(record["file_name"]).stem for record in records] == ["COCO_0", "COCO_2"]
    assert len(DatasetCatalog.get("coco_stuff_10k_sem_seg_test")) == 1
    for record in records:
        expected = [[255] + [INDEX_OF_RELEASE[number] for number in numbers]]
        assert read_label(record["sem_seg_file_name"]) == expected


@pytest.mark.parametrize("number", [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91, 183])
def test_coco_stuff_numbers_that_never_occur_are_refused(root, number):
    base = root / "coco"
    save_image(base / "val2017" / "1.jpg", size=(1, 1))
    save_label(base / "stuffthingmaps" / "val2017" / "1.png", [[number - 1]])
    save_image(root / "coco_stuff10k" / "images" / "1.jpg", size=(1, 1))
    save_label(root / "coco_stuff10k" / "annotations" / "1.mat", [[number]])
    (root / "coco_stuff10k" / "imageLists").mkdir()
    (root / "coco_stuff10k" / "imageLists" / "test.txt").write_text("1")
    (problem,) = prepare_dataset("coco_stuff_164k", str(root), splits=["val"]).problems
    assert f"1.png: label out of range ({number - 1}), expected 0 to 181 without 11," in problem
    (problem,) = prepare_dataset("coco_stuff_10k", str(root), splits=["test"]).problems
    assert f"1.mat: label out of range ({number}), expected 0 (unlabeled) to 182" in problem
    assert not list(root.rglob("*_detectron2"))


def test_camvid_copies_images_and_maps_void(root, tmp_path, capsys):
    make_camvid(tmp_path / "CamVid")
    assert run_tool("camvid", "--source", tmp_path / "CamVid", "--workers", "3") == 0
    captured = capsys.readouterr()
    assert "camvid: 6 written, 0 skipped" in captured.out
    assert "warning: camvid: split test is skipped" in captured.err
    for split in ("train", "val"):
        records = DatasetCatalog.get(f"camvid_sem_seg_{split}")
        assert len(records) == 3
        for i, record in enumerate(records):
            assert read_label(record["sem_seg_file_name"]) == [[0, 1, 255], [10, i, 255]]
            original = tmp_path / "CamVid" / split / f"{i}.png"
            assert Path(record["file_name"]).read_bytes() == original.read_bytes()


def test_palette_images_count_as_label_maps(root):
    make_camvid(root / "camvid", num_images=1, splits=["val"])
    path = root / "camvid" / "valannot" / "0.png"
    with Image.open(path) as image:
        image.load()
    image.putpalette([value for color in range(12) for value in (20 * color, 0, 0)])
    assert image.mode == "P"
    image.save(path)
    assert prepare_dataset("camvid", str(root), splits=["val"]).problems == []
    written = root / "camvid" / "valannot_detectron2" / "0.png"
    assert read_label(written) == [[0, 1, 255], [10, 0, 255]]


def test_a_second_run_writes_only_what_is_older_than_its_source(root, tmp_path):
    source = tmp_path / "CamVid"
    make_camvid(source)
    assert prepare_dataset("camvid", str(root), source=str(source)).written == 6
    before = {name: path.stat().st_mtime_ns for name, path in files_under(root).items()}
    report = prepare_dataset("camvid", str(root), source=str(source))
    assert (report.written, report.skipped) == (0, 6)
    assert before == {name: path.stat().st_mtime_ns for name, path in files_under(root).items()}

    changed, absent = "valannot/0.png", root / "camvid" / "train" / "1.png"
    save_label(source / changed, [[5, 5, 5], [5, 5, 5]])
    later = time.time_ns() + 10**9
    os.utime(source / changed, ns=(later, later))
    absent.unlink()
    report = prepare_dataset("camvid", str(root), source=str(source))
    assert (report.written, report.skipped) == (2, 4)
    assert read_label(root / "camvid" / "valannot_detectron2" / "0.png") == [[5, 5, 5], [5, 5, 5]]
    assert absent.exists()


def test_real_camvid_and_ade20k(shared_data, root, tmp_path):
    if not (shared_data / "camvid").is_dir() or not (shared_data / "ade20k_sample").is_dir():
        pytest.skip("the real CamVid and the ADE20K sample are not on this machine")
    ade20k = tmp_path / "ade20k"
    for folder in ("images", "annotations"):
        (ade20k / folder).mkdir(parents=True)
        (ade20k / folder / "validation").symlink_to(shared_data / "ade20k_sample" / folder)
    report = prepare_dataset("ade20k", str(root), source=str(ade20k), splits=["val"])
    assert (report.written, report.problems) == (3, [])
    for path in (shared_data / "ade20k_sample" / "annotations").glob("*.png"):
        written = root / "ADEChallengeData2016/annotations_detectron2/validation" / path.name
        with Image.open(path) as image:
            # 0 - 1 wraps to 255 in 8 bits.
            expected = np.asarray(image) - np.uint8(1)
        assert read_label(written) == expected.tolist()
    report = prepare_dataset("camvid", str(root), source=str(shared_data / "camvid"))
    assert (report.written, report.problems) == (468, [])
    assert len(DatasetCatalog.get("camvid_sem_seg_train")) == 367
    assert len(DatasetCatalog.get("camvid_sem_seg_val")) == 101
