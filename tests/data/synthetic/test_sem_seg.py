# SPDX-License-Identifier: Apache-2.0
"""The generated data set holds what it promises: counts, determinism, difficulty, whole files."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest

from longtail.data.formats.generated import read_meta
from longtail.data.synthetic import (
    IGNORE_LABEL,
    SyntheticConfig,
    generate_scene,
    plan_split,
    scene_generator,
    write_dataset,
)

# 8 classes, 2 of them stuff; few and small images keep these tests fast.
SMALL = SyntheticConfig(
    num_classes=8, image_size=(64, 80), region_imbalance=5, pixel_imbalance=20, min_val_images=3
)
DEFAULT = SyntheticConfig()


def make_scenes(config: SyntheticConfig, split: str, num_images: int, step: int = 1) -> list:
    """Every ``step``-th scene of a split with its plan."""
    plan = plan_split(config, num_images, split)
    return [
        (plan[i], generate_scene(config, plan[i], scene_generator(config, split, i)))
        for i in range(0, num_images, step)
    ]


@pytest.fixture(scope="module")
def default_scenes() -> list:
    """A quarter of the quick start's training images."""
    return make_scenes(DEFAULT, "train", 400, step=4)


def file_hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        write_dataset(tmp_path / name, 6, 3, SMALL, workers)
    hashes = file_hashes(tmp_path / "one")
    # 9 images, 9 label maps, meta.json.
    assert len(hashes) == 19
    assert hashes == file_hashes(tmp_path / "two")


def test_another_seed_gives_other_images_and_splits_differ():
    other = dataclasses.replace(SMALL, seed=1)
    images = [
        make_scenes(config, split, 6)[0][1].image
        for config, split in ((SMALL, "train"), (SMALL, "val"), (other, "train"))
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(images[first] != images[second]) > 0.9


def test_plan_follows_the_laws_exactly():
    plan = plan_split(DEFAULT, 400, "train")
    np.testing.assert_allclose(plan.sum(axis=1), 1, atol=1e-12)
    # n_c = round(400 * 100 ** (-c / 23)): 400, 400 * 0.8185 = 327, ..., 400 / 100 = 4.
    expected = [round(400 * 100 ** (-c / 23)) for c in range(24)]
    assert expected[:2] == [400, 327] and expected[-1] == 4
    assert (plan > 0).sum(axis=0).tolist() == expected
    pixels = plan.sum(axis=0)
    assert pixels.max() / pixels.min() == pytest.approx(300, rel=0.1)


def test_every_class_is_in_enough_validation_images():
    present = (plan_split(DEFAULT, 120, "val") > 0).sum(axis=0)
    assert present[0] == 120
    assert present.min() == DEFAULT.min_val_images


def test_scenes_hold_exactly_the_planned_classes(default_scenes):
    for plan, scene in default_scenes:
        found = np.unique(scene.sem_seg)
        assert found[found != IGNORE_LABEL].tolist() == np.flatnonzero(plan).tolist()


@pytest.mark.parametrize(("region_imbalance", "pixel_imbalance"), [(5, 20), (10, 30)])
def test_measured_imbalance_factors_are_near_the_arguments(region_imbalance, pixel_imbalance):
    config = SyntheticConfig(
        num_classes=12,
        image_size=(96, 96),
        region_imbalance=region_imbalance,
        pixel_imbalance=pixel_imbalance,
    )
    scenes = make_scenes(config, "train", 80)
    counts = np.stack([np.bincount(s.sem_seg.ravel(), minlength=256)[:12] for _, s in scenes])
    images, pixels = (counts > 0).sum(axis=0), counts.sum(axis=0)
    assert images.max() / images.min() == region_imbalance
    assert pixels.max() / pixels.min() == pytest.approx(pixel_imbalance, rel=0.3)


def test_scene_arrays_and_share_of_ignored_pixels(default_scenes):
    ignored = []
    for _, scene in default_scenes:
        assert scene.image.shape == (160, 160, 3) and scene.image.dtype == np.uint8
        assert scene.sem_seg.shape == (160, 160) and scene.sem_seg.dtype == np.uint8
        valid = scene.sem_seg[scene.sem_seg != IGNORE_LABEL]
        assert valid.max() < DEFAULT.num_classes
        ignored.append(np.mean(scene.sem_seg == IGNORE_LABEL))
    assert 0.01 < np.mean(ignored) < 0.08


def test_instances_are_disjoint_and_agree_with_the_labels(default_scenes):
    for _, scene in default_scenes:
        covered = np.zeros(scene.sem_seg.shape, dtype=int)
        for instance in scene.instances:
            labels = scene.sem_seg[instance.mask]
            assert np.all((labels == instance.class_id) | (labels == IGNORE_LABEL))
            assert 0 < instance.mask.sum() <= instance.full_area
            covered += instance.mask
        assert covered.max(initial=0) <= 1
        labelled_things = (scene.sem_seg >= DEFAULT.num_stuff) & (scene.sem_seg != IGNORE_LABEL)
        assert np.all(covered[labelled_things] == 1)


def test_objects_hide_one_another_and_some_are_thin_or_small(default_scenes):
    instances = [instance for _, scene in default_scenes for instance in scene.instances]
    shown = np.array([i.mask.sum() / i.full_area for i in instances])
    assert np.mean(shown < 0.9) > 0.15
    small = np.array([i.mask.sum() for i in instances]) < 0.01 * 160 * 160
    assert small.mean() > 0.2
    # Half the width of the widest place: a thin object is nowhere 11 pixels wide.
    depth = [
        cv2.distanceTransform(i.mask.astype(np.uint8), cv2.DIST_L2, 5).max() for i in instances
    ]
    large_and_thin = (np.array(depth) < 5.5) & ~small
    assert large_and_thin.mean() > 0.05


def test_colour_alone_does_not_tell_the_class(default_scenes):
    def flat(scenes):
        images = np.concatenate([s.image.reshape(-1, 3) for _, s in scenes]).astype(np.float64)
        labels = np.concatenate([s.sem_seg.ravel() for _, s in scenes])
        return images[labels != IGNORE_LABEL], labels[labels != IGNORE_LABEL]

    pixels, labels = flat(default_scenes)
    seen = np.unique(labels)
    means = np.stack([pixels[labels == c].mean(axis=0) for c in seen])
    pixels, labels = flat(make_scenes(DEFAULT, "val", 120, step=6))
    guess = seen[np.argmin(-2 * pixels @ means.T + (means**2).sum(axis=1), axis=1)]
    ious = [
        np.sum((guess == c) & (labels == c)) / np.sum((guess == c) | (labels == c))
        for c in np.unique(labels)
    ]
    assert np.mean(ious) < 0.1


def test_rare_things_share_shape_and_texture_with_frequent_ones():
    parts = [DEFAULT.thing_parts(c) for c in range(DEFAULT.num_stuff, DEFAULT.num_classes)]
    assert len(set(parts)) == len(parts)
    for shape, texture in parts[8:]:
        assert shape in [s for s, _ in parts[:8]] and texture in [t for _, t in parts[:8]]
    assert len(set(SyntheticConfig(num_classes=72, pixel_imbalance=300).class_names)) == 72


def test_meta_describes_what_is_on_the_disk(tmp_path):
    meta = write_dataset(tmp_path, 6, 3, SMALL)
    assert meta == read_meta(tmp_path) == json.loads((tmp_path / "meta.json").read_text())
    assert meta["classes"][:2] == ["brick", "water"] and len(meta["classes"]) == 8
    assert sorted(chain.from_iterable(meta["class_groups"].values())) == list(range(8))
    labels = sorted((tmp_path / "annotations_detectron2" / "training").glob("*.png"))
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in labels]
    counts = np.stack([np.bincount(m.ravel(), minlength=256)[:8] for m in maps])
    assert meta["pixel_count"]["train"] == counts.sum(axis=0).tolist()
    assert meta["image_count"]["train"] == (counts > 0).sum(axis=0).tolist()
    images = sorted((tmp_path / "images" / "training").glob("*.jpg"))
    assert [p.stem for p in images] == [p.stem for p in labels]
    assert cv2.imread(str(images[0])).shape == (64, 80, 3)


def test_same_request_is_a_no_op_another_one_replaces_everything(tmp_path):
    write_dataset(tmp_path, 7, 3, SMALL)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_dataset(tmp_path, 7, 3, SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    before = file_hashes(tmp_path)
    write_dataset(tmp_path, 6, 3, dataclasses.replace(SMALL, seed=5))
    after = file_hashes(tmp_path)
    assert len(after) == len(before) - 2
    assert not set(after.values()) & set(before.values())


def test_an_interrupted_generation_is_done_again(tmp_path):
    write_dataset(tmp_path, 6, 3, SMALL)
    whole = file_hashes(tmp_path)
    (tmp_path / "meta.json").unlink()
    (tmp_path / "images" / "training" / "synthetic_train_000001.jpg").write_bytes(b"half")
    (tmp_path / "images" / "training" / ".synthetic_train_000002.jpg.0f.tmp").write_bytes(b"")
    assert read_meta(tmp_path) is None
    write_dataset(tmp_path, 6, 3, SMALL)
    assert file_hashes(tmp_path) == whole


def test_files_of_others_are_never_removed(tmp_path):
    photo = tmp_path / "images" / "training" / "ADE_train_00000001.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"ADE_train_00000001\.jpg was not generated"):
        write_dataset(tmp_path, 6, 3, SMALL)
    assert list(file_hashes(tmp_path)) == ["images/training/ADE_train_00000001.jpg"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 3}, "num_classes must be from 4 to 72, got 3"),
        ({"num_classes": 73}, "num_classes must be from 4 to 72, got 73"),
        ({"image_size": (160, 20)}, r"image_size must be .* at least 48 .*\(160, 20\)"),
        ({"num_classes": 48, "image_size": (48, 48)}, "image_size 48x48 is too small"),
        ({"region_imbalance": 0.5}, "region_imbalance must be at least 1, got 0.5"),
        ({"region_imbalance": float("nan")}, "region_imbalance must be at least 1, got nan"),
        ({"pixel_imbalance": 50}, "pixel_imbalance must be at least region_imbalance"),
        ({"region_imbalance": 1, "pixel_imbalance": 2}, "pixel_imbalance 2 is too small for 24"),
        ({"seed": -1}, "seed must not be negative"),
        ({"min_val_images": 0}, "min_val_images must be at least 1"),
    ],
)
def test_impossible_configs_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**fields)


def test_too_few_images_are_named_before_anything_is_removed(tmp_path):
    write_dataset(tmp_path, 6, 3, SMALL)
    before = file_hashes(tmp_path)
    with pytest.raises(ValueError, match="4 training images are too few for region_imbalance 5"):
        write_dataset(tmp_path, 4, 3, SMALL)
    with pytest.raises(ValueError, match=r"2 validation images are too few.*min_val_images = 3"):
        write_dataset(tmp_path, 6, 2, SMALL)
    assert file_hashes(tmp_path) == before


def test_areas_without_stuff_are_refused():
    with pytest.raises(ValueError, match="areas must be 8 shares, one of them of a stuff class"):
        generate_scene(SMALL, np.eye(8)[7], np.random.default_rng(0))


def test_data_set_is_registered_with_the_generated_classes(tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from longtail.data.datasets import datasets_root
    from longtail.data.datasets.synthetic import register_synthetic

    try:
        register_synthetic(str(tmp_path))
        assert len(MetadataCatalog.get("synthetic_sem_seg_train").stuff_classes) == 24
        meta = write_dataset(tmp_path / "synthetic", 6, 3, SMALL)
        register_synthetic(str(tmp_path))
        metadata = MetadataCatalog.get("synthetic_sem_seg_val")
        assert metadata.stuff_classes == meta["classes"]
        assert metadata.class_groups == meta["class_groups"]
        assert len(DatasetCatalog.get("synthetic_sem_seg_train")) == 6
        assert len(DatasetCatalog.get("synthetic_sem_seg_val")) == 3
    finally:
        register_synthetic(datasets_root())


def run_tool(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "longtail", "generate", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def test_command_prints_the_measured_factors_and_refuses_in_one_line(tmp_path):
    small = "--num-train 6 --num-val 8 --size 64 --classes 8 --region-imbalance 5 --workers 1"
    arguments = ["--output", tmp_path / "set", *small.split(), "--pixel-imbalance"]
    run = run_tool(*arguments, 20)
    assert run.returncode == 0, run.stderr
    # 6 images with the first class, round(6 / 5) = 1 with the last.
    assert "region imbalance factor: train 6.0" in run.stdout
    run = run_tool(*arguments, 2)
    assert run.returncode == 1
    assert run.stderr.startswith("error: --pixel-imbalance must be at least")
    assert run.stderr.count("\n") == 1
