# SPDX-License-Identifier: Apache-2.0
"""The generated data set in LVIS's format: counts, masks, federated labels, whole files."""

import dataclasses
import json
from collections import Counter

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from longtail.commands import generate
from longtail.data.datasets.lvis import register_lvis_synthetic
from longtail.data.formats.generated import read_meta
from longtail.data.statistics.class_stats import compute_class_stats
from longtail.data.statistics.groups import frequency_letter
from longtail.data.synthetic import (
    LVIS_CONFIG,
    SyntheticConfig,
    generate_scene,
    plan_split,
    scene_generator,
    write_dataset,
    write_lvis_dataset,
)
from longtail.data.synthetic import lvis as synthetic_lvis

# 12 classes, 2 of them stuff: 10 categories.
SMALL = SyntheticConfig(
    num_classes=12, image_size=(96, 112), region_imbalance=30, pixel_imbalance=30, min_val_images=4
)
NUM_TRAIN, NUM_VAL = 60, 10


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder of all data sets with a small generated one, and its meta."""
    root = tmp_path_factory.mktemp("datasets")
    return root, write_lvis_dataset(root / "lvis_synthetic", NUM_TRAIN, NUM_VAL, SMALL)


def document(root, split):
    return json.loads((root / "lvis_synthetic" / f"lvis_synthetic_{split}.json").read_text())


def hashes(root):
    return {str(p.relative_to(root)): hash(p.read_bytes()) for p in root.rglob("*") if p.is_file()}


def scenes(split, num_images):
    """The scenes as they were drawn, with everything that is not annotated."""
    plan = plan_split(SMALL, num_images, split)
    for index in range(num_images):
        rng = scene_generator(SMALL, split, index).spawn(1)[0]
        areas = synthetic_lvis._areas(SMALL, plan[index], rng)
        min_object = round(96 * 112 / 256)
        yield generate_scene(SMALL, areas, scene_generator(SMALL, split, index), min_object)


def test_the_default_has_a_long_tail_of_60_categories():
    counts = (plan_split(LVIS_CONFIG, 1200, "train") > 0).sum(axis=0)[LVIS_CONFIG.num_stuff :]
    assert len(counts) == len(set(synthetic_lvis.category_names(LVIS_CONFIG))) == 60
    # round(1200 * 1200 ** (-c / 67)) for c = 8 and 67.
    assert (counts[0], counts[-1]) == (515, 1)
    letters = Counter(frequency_letter(int(n)) for n in counts)
    assert letters == {"r": 23, "c": 21, "f": 16}
    val = (plan_split(LVIS_CONFIG, 300, "val") > 0).sum(axis=0)
    assert val.min() == 10


def test_default_scenes_have_a_few_objects_that_can_be_seen():
    plan = plan_split(LVIS_CONFIG, 1200, "train")
    sizes, numbers = [], []
    for index in range(0, 1200, 50):
        rng = scene_generator(LVIS_CONFIG, "train", index).spawn(1)[0]
        areas = synthetic_lvis._areas(LVIS_CONFIG, plan[index], rng)
        scene = generate_scene(LVIS_CONFIG, areas, np.random.default_rng(index), 144)
        assert {i.class_id for i in scene.instances} == set(np.flatnonzero(plan[index, 8:]) + 8)
        sizes += [instance.mask.sum() for instance in scene.instances]
        numbers.append(len(scene.instances))
    assert min(sizes) >= 12 * 12
    assert 4 <= np.mean(numbers) <= 9


@pytest.mark.parametrize(("split", "num_images"), [("train", NUM_TRAIN), ("val", NUM_VAL)])
def test_annotations_are_the_visible_objects_or_flagged_as_incomplete(small, split, num_images):
    content = document(small[0], split)
    by_image = {image["id"]: [] for image in content["images"]}
    for item in content["annotations"]:
        by_image[item["image_id"]].append(item)
    left_out = 0
    for image, scene in zip(content["images"], scenes(split, num_images), strict=True):
        size = (image["height"], image["width"])
        drawn = [(i.class_id - 1, i.mask) for i in scene.instances]
        for item in by_image[image["id"]]:
            rle = mask_util.merge(mask_util.frPyObjects(item["segmentation"], *size))
            mask = mask_util.decode(rle).astype(bool)
            (match,) = [k for k, d in enumerate(drawn) if np.array_equal(d[1], mask)]
            assert drawn.pop(match)[0] == item["category_id"]
            assert item["area"] == mask.sum()
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            x, y, width, height = item["bbox"]
            assert (x, y) == (columns[0], rows[0])
            assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)
        # Left out are objects of the flagged categories alone, and of each of them.
        assert {c for c, _ in drawn} == set(image["not_exhaustive_category_ids"])
        annotated = {item["category_id"] for item in by_image[image["id"]]}
        assert set(image["not_exhaustive_category_ids"]) <= annotated
        left_out += len(drawn)
    assert (left_out > 0) == any(i["not_exhaustive_category_ids"] for i in content["images"])
    if split == "train":
        assert 0 < left_out < 0.2 * len(content["annotations"])


def test_negatives_are_absent_and_not_all_of_the_absent_are_listed(small):
    content = document(small[0], "train")
    present = {image["id"]: set() for image in content["images"]}
    for item in content["annotations"]:
        present[item["image_id"]].add(item["category_id"])
    unknown = 0
    for image in content["images"]:
        negatives = set(image["neg_category_ids"])
        absent = set(range(1, 11)) - present[image["id"]]
        assert negatives <= absent
        assert len(negatives) == min(8, len(absent))
        unknown += len(absent - negatives)
    assert unknown > 0


def test_counts_and_letters_are_those_of_the_training_annotations(small):
    root, meta = small
    train, val = document(root, "train"), document(root, "val")
    assert train["categories"] == val["categories"]
    expected = (plan_split(SMALL, NUM_TRAIN, "train") > 0).sum(axis=0)[2:]
    pairs = Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in train["annotations"]})
    instances = Counter(a["category_id"] for a in train["annotations"])
    for row in train["categories"]:
        assert row["image_count"] == expected[row["id"] - 1] == pairs[row["id"]]
        assert row["instance_count"] == instances[row["id"]]
        assert row["frequency"] == ("r" if row["image_count"] <= 10 else "c")
    assert meta["image_count"]["train"] == expected.tolist()
    assert meta["frequency"] == [row["frequency"] for row in train["categories"]]


def test_it_is_registered_as_lvis_is(small, root):
    for split, number in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        name = f"lvis_synthetic_{split}"
        # What nobody has generated yet has the default's classes.
        assert len(MetadataCatalog.get(name).thing_classes) == 60
        with pytest.raises(FileNotFoundError, match="longtail generate --lvis"):
            DatasetCatalog.get(name)
        register_lvis_synthetic(str(small[0]))
        records = DatasetCatalog.get(name)
        assert len(records) == number
        image = cv2.imread(records[3]["file_name"])
        assert image.shape == (96, 112, 3) == (records[3]["height"], records[3]["width"], 3)
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "lvis"
        assert metadata.thing_classes == small[1]["categories"]
        stats = compute_class_stats(name)
        assert stats.instance_count.tolist() == small[1]["instance_count"][split]
        assert stats.image_count.tolist() == small[1]["image_count"][split]
        register_lvis_synthetic(str(root))


def test_same_seed_same_bytes_for_any_number_of_workers(small, tmp_path):
    write_lvis_dataset(tmp_path, NUM_TRAIN, NUM_VAL, SMALL, num_workers=2)
    assert hashes(tmp_path) == hashes(small[0] / "lvis_synthetic")


def test_an_interrupted_generation_is_done_again_a_whole_one_is_not(tmp_path):
    config = dataclasses.replace(SMALL, region_imbalance=3, min_val_images=2)
    meta = write_lvis_dataset(tmp_path, 4, 2, config)
    whole = hashes(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert write_lvis_dataset(tmp_path, 4, 2, config) == meta == read_meta(tmp_path)
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    (tmp_path / "meta.json").unlink()
    (tmp_path / "lvis_synthetic_train.json").write_text("{")
    (tmp_path / "images" / "val" / "synthetic_val_000001.jpg").write_bytes(b"half")
    write_lvis_dataset(tmp_path, 4, 2, config)
    assert hashes(tmp_path) == whole
    # Another request replaces everything; an image less leaves none behind.
    other = write_lvis_dataset(tmp_path, 3, 2, dataclasses.replace(config, seed=1))
    assert other["num_images"]["train"] == 3
    assert len(hashes(tmp_path)) == len(whole) - 1


def test_an_interruption_leaves_no_annotations(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, region_imbalance=3, min_val_images=2)
    write_lvis_dataset(tmp_path, 4, 2, config)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_lvis, "_write_image", fail)
    with pytest.raises(KeyboardInterrupt):
        write_lvis_dataset(tmp_path, 5, 2, config)
    assert read_meta(tmp_path) is None
    assert list(tmp_path.glob("*.json")) == []


def test_the_two_kinds_do_not_overwrite_each_other(tmp_path):
    config = dataclasses.replace(SMALL, region_imbalance=3, min_val_images=2)
    write_lvis_dataset(tmp_path / "lvis", 4, 2, config)
    write_dataset(tmp_path / "sem_seg", 4, 2, config)
    before = hashes(tmp_path)
    for write, folder in ((write_dataset, "lvis"), (write_lvis_dataset, "sem_seg")):
        with pytest.raises(ValueError, match=f"{folder} holds generated data of another kind"):
            write(tmp_path / folder, 4, 2, config)
    (tmp_path / "mine" / "images" / "val").mkdir(parents=True)
    (tmp_path / "mine" / "images" / "val" / "cat.jpg").touch()
    with pytest.raises(ValueError, match=r"cat\.jpg was not generated"):
        write_lvis_dataset(tmp_path / "mine", 4, 2, config)
    assert before.items() <= hashes(tmp_path).items()
    assert len(hashes(tmp_path)) == len(before) + 1


def run_tool(*arguments):
    generate.main([str(argument) for argument in arguments])


def test_command(root, capsys):
    small = "--num-train 6 --num-val 10 --size 64 --classes 8 --region-imbalance 5 --workers 1"
    run_tool("--lvis", *small.split())
    out = capsys.readouterr().out
    # 8 classes, 2 of them stuff; nothing is in more than 6 images.
    assert "rare: 6 categories" in out and "frequent: 0 categories" in out
    assert f"folder: {root}/lvis_synthetic" in out
    register_lvis_synthetic(str(root))
    assert len(DatasetCatalog.get("lvis_synthetic_train")) == 6
    with pytest.raises(SystemExit, match=r"^error: 6 training images are too few"):
        run_tool("--lvis", *small.split(), "--region-imbalance", 50)
    with pytest.raises(SystemExit):
        run_tool("--lvis", "--pixel-imbalance", 50)
    assert "unrecognized arguments: --pixel-imbalance" in capsys.readouterr().err
