# SPDX-License-Identifier: Apache-2.0
"""Scenes of handwritten digits: counts, disjoint digits, labels that match pixels, whole files."""

import hashlib

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from sklearn.datasets import load_digits

from longtail.commands import generate
from longtail.data.datasets.digit_scenes import register_digit_scenes
from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.synthetic import DigitScenesConfig, digit_scenes, write_digit_scenes
from longtail.data.synthetic.digit_scenes import generate_digit_scene, plan_scenes

SMALL = DigitScenesConfig(num_train=20, imbalance=20)
# round(20 * 20 ** (-k / 9)): 20, 14.3, 10.3, 7.37, 5.28, 3.79, 2.71, 1.95, 1.39, 1
COUNTS = [20, 14, 10, 7, 5, 4, 3, 2, 1, 1]
TARGET = load_digits().target


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder of data sets with a small one of this kind, drawn by one process."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes, "VAL_SCENES", 10)
        patch.setattr(digit_scenes, "TEST_SCENES", 20)
        meta = write_digit_scenes(folder / "digit_scenes", SMALL)
    return folder, meta


def test_the_law_of_frequencies():
    # round(300 * 20 ** (-k / 9)): 300, 215.1, 154.2, 110.5, 79.2, 56.8, 40.7, 29.2, 20.9, 15
    expected = [300, 215, 154, 111, 79, 57, 41, 29, 21, 15]
    counts = [DigitScenesConfig(seed=seed).digit_counts("train").tolist() for seed in range(3)]
    assert all(sorted(count, reverse=True) == expected for count in counts)
    assert counts[0] != counts[1] != counts[2]
    # Three digits in each of 50 and of 100 scenes, each digit as often as the others.
    assert DigitScenesConfig().digit_counts("val").tolist() == [15] * 10
    assert DigitScenesConfig().digit_counts("test").tolist() == [30] * 10


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_plans_hold_the_counts_and_share_no_image(seed):
    config = DigitScenesConfig(seed=seed)
    used = {}
    for split in ("train", "val", "test"):
        plan = plan_scenes(config, split)
        assert (plan >= 0).sum(axis=0).tolist() == config.digit_counts(split).tolist()
        scenes, digits = np.nonzero(plan >= 0)
        # Column d has images of the digit d alone.
        np.testing.assert_array_equal(TARGET[plan[scenes, digits]], digits)
        used[split] = plan[scenes, digits].tolist()
        # Spread evenly: 1022 in the 300 scenes of training.
        assert set((plan >= 0).sum(axis=1)) == ({3, 4} if split == "train" else {3})
    assert not set(used["train"]) & set(used["val"] + used["test"])
    assert not set(used["val"]) & set(used["test"])
    # No image twice before all of a digit's 104, 20 and 50 were there.
    for split, number in (("train", 104), ("val", 20), ("test", 50)):
        chosen = np.array(used[split])
        for digit in range(10):
            own = chosen[TARGET[chosen] == digit]
            assert len(set(own.tolist())) == min(len(own), number)


def test_files_show_what_was_planned(small, root, monkeypatch):
    folder, meta = small
    register_digit_scenes(str(folder))
    assert sorted(meta["image_count"]["train"][:10], reverse=True) == COUNTS
    monkeypatch.setattr(digit_scenes, "TEST_SCENES", 20)
    monkeypatch.setattr(digit_scenes, "VAL_SCENES", 10)
    for split, number in (("train", 20), ("val", 10), ("test", 20)):
        records = DatasetCatalog.get(f"digit_scenes_sem_seg_{split}")
        maps = [pixels(record["sem_seg_file_name"]) for record in records]
        assert len(records) == number
        shown = [set(np.unique(labels).tolist()) for labels in maps]
        planned = [set(np.flatnonzero(row >= 0)) | {10} for row in plan_scenes(SMALL, split)]
        assert shown == planned
    counts = get_class_stats("digit_scenes_sem_seg_train").image_count.tolist()
    assert counts == meta["image_count"]["train"] and counts[10] == 20
    # Of 11 classes 4, 4 and 3: the ground and the digits in 20, 14 and 10 scenes, and so on.
    groups = MetadataCatalog.get("digit_scenes_sem_seg_test").class_groups
    found = {g: sorted(counts[k] for k in members) for g, members in groups.items()}
    assert found == {"head": [10, 14, 20, 20], "body": [3, 4, 5, 7], "tail": [1, 1, 2]}
    assert 10 in groups["head"]
    assert MetadataCatalog.get("digit_scenes_sem_seg_val").stuff_classes == [
        *"0123456789",
        "ground",
    ]
    register_digit_scenes(str(root))


def test_labels_match_pixels(monkeypatch):
    """On a black ground, without a camera: a card is what is bright, and ink is inside of it."""
    monkeypatch.setattr(digit_scenes, "photograph", lambda canvas, *_: canvas)
    monkeypatch.setattr(digit_scenes, "colorize", lambda grey, _: np.zeros((*grey.shape, 3)))
    ink = np.zeros((8, 8))
    ink[2:6, 2:6] = 16
    for seed in range(5):
        image, labels = generate_digit_scene({3: ink, 8: ink}, np.random.default_rng(seed))
        assert set(np.unique(labels)) == {3, 8, 10}
        brightness = image.mean(axis=-1)
        # Paper is at least 0.7 * 0.8, half of it at the edge; ink at most 0.3.
        assert (brightness[labels == 10] < 0.5).all()
        for digit in (3, 8):
            inside = labels == digit
            # Cards have sides of 23 to 27 pixels: 529 to 729 of them.
            assert 23**2 * 0.95 < inside.sum() < 27**2 * 1.05
            rows, columns = np.nonzero(inside)
            center = slice(int(rows.mean()) - 2, int(rows.mean()) + 3)
            middle = slice(int(columns.mean()) - 2, int(columns.mean()) + 3)
            assert (brightness[center, middle] < 0.31).all()
            assert np.median(brightness[inside]) > 0.5


def test_a_digit_is_neither_mirrored_nor_upside_down(monkeypatch):
    """Ink in the upper left pixels is up and left of the center of its card."""
    monkeypatch.setattr(digit_scenes, "photograph", lambda canvas, *_: canvas)
    monkeypatch.setattr(digit_scenes, "colorize", lambda grey, _: np.ones((*grey.shape, 3)))
    ink = np.zeros((8, 8))
    ink[:3, :3] = 16
    for seed in range(5):
        image, labels = generate_digit_scene({0: ink}, np.random.default_rng(seed))
        card, dark = np.argwhere(labels == 0), np.argwhere(image.mean(axis=-1) < 0.4)
        assert (dark.mean(axis=0) < card.mean(axis=0) - 1).all()


def test_a_scene_too_full_says_so():
    ink = np.zeros((8, 8))
    with pytest.raises(ValueError, match="no room for 10 digits"):
        generate_digit_scene(dict.fromkeys(range(10), ink), np.random.default_rng(0))


@pytest.mark.slow
def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes, "VAL_SCENES", 10)
    monkeypatch.setattr(digit_scenes, "TEST_SCENES", 10)
    tiny = DigitScenesConfig(num_train=20, imbalance=20)
    write_digit_scenes(tmp_path / "one", tiny)
    write_digit_scenes(tmp_path / "two", tiny, num_workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    write_digit_scenes(tmp_path / "one", tiny)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    other = DigitScenesConfig(num_train=20, imbalance=20, seed=1)
    write_digit_scenes(tmp_path / "one", other)
    assert hashes(tmp_path / "one").keys() == hashes(tmp_path / "two").keys()
    assert hashes(tmp_path / "one") != hashes(tmp_path / "two")


def test_foreign_files_stay(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "cat.png").write_bytes(b"cat")
    with pytest.raises(ValueError, match=r"cat\.png was not generated"):
        write_digit_scenes(tmp_path, SMALL)
    assert (tmp_path / "images" / "train" / "cat.png").read_bytes() == b"cat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imbalance": 2}, "imbalance must be at least 20, got 2"),
        ({"num_train": 10}, r"num_train must be at least imbalance \(20\).*got 10"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_bad_descriptions(options, message):
    with pytest.raises(ValueError, match=message):
        DigitScenesConfig(**options)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(digit_scenes, "VAL_SCENES", 10)
    monkeypatch.setattr(digit_scenes, "TEST_SCENES", 10)
    command = ["--digits", "--output", str(tmp_path), "--workers", "1", "--imbalance", "20"]
    generate.main([*command, "--images", "20", "--seed", "2"])
    printed = capsys.readouterr().out
    tail = next(line for line in printed.splitlines() if line.startswith("tail: "))
    assert len(tail.split(", ")) == 3
    assert f"folder: {tmp_path}" in printed
    with pytest.raises(SystemExit, match=r"--images must be at least --imbalance \(20\).*got 5"):
        generate.main([*command, "--images", "5"])
    with pytest.raises(
        SystemExit, match="choose one of --lvis, --hued, --classification and --digits"
    ):
        generate.main(["--digits", "--lvis"])
