# SPDX-License-Identifier: Apache-2.0
"""Generated images of one object each: counts, determinism, shared parts, whole files."""

import hashlib

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.commands import generate
from longtail.data.datasets.synthetic import register_synthetic_lt
from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.synthetic import write_dataset, write_lvis_dataset
from longtail.data.synthetic.classification import (
    ClassificationConfig,
    generate_image,
    write_classification_dataset,
)

SMALL = {"num_classes": 4, "imbalance": 5, "max_images": 10}
DEFAULT = ClassificationConfig()


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return folder, write_classification_dataset(folder / "synthetic_lt", **SMALL)


def test_counts_follow_the_law_in_an_order_of_the_seed():
    # round(300 * 100 ** (-k / 23)): 300, 246, ..., 3.
    expected = [round(300 * 100 ** (-k / 23)) for k in range(24)]
    assert expected[:2] == [300, 246] and expected[-1] == 3
    counts = [ClassificationConfig(seed=seed).image_counts("train").tolist() for seed in (0, 1)]
    assert [sorted(count, reverse=True) for count in counts] == [expected, expected]
    assert counts[0] != counts[1]
    for split, number in (("val", 10), ("test", 40), ("balanced", 300)):
        assert DEFAULT.image_counts(split).tolist() == [number] * 24


def test_classes_are_different_pairs_that_share_their_parts():
    parts = [ClassificationConfig(num_classes=48).parts(label) for label in range(48)]
    assert len(set(parts)) == 48
    # Of the default's 24 classes, each shares its shape with 3 and its texture with at least 1.
    shapes, textures = zip(*parts[:24], strict=True)
    assert all(shapes.count(shape) == 4 for shape in shapes)
    assert all(textures.count(texture) >= 2 for texture in textures)


def test_lists_and_files_agree_with_the_counts(small, root):
    folder, meta = small
    register_synthetic_lt(str(folder))
    files = {}
    for split in ("train", "val", "test", "balanced"):
        records = DatasetCatalog.get(f"synthetic_lt_{split}")
        labels = [record["label"] for record in records]
        assert np.bincount(labels).tolist() == meta["image_count"][split]
        files[split] = {record["file_name"] for record in records}
    assert files["train"] < files["balanced"]
    assert len(files["balanced"] | files["val"] | files["test"]) == 4 * (10 + 10 + 40)
    assert not files["balanced"] & (files["val"] | files["test"])
    with Image.open(min(files["test"])) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    assert MetadataCatalog.get("synthetic_lt_val").thing_classes == meta["classes"]
    # round(10 * 5 ** (-k / 3)) = 10, 5.8, 3.4, 2
    counts = get_class_stats("synthetic_lt_train").image_count.tolist()
    assert sorted(counts) == [2, 3, 6, 10]
    register_synthetic_lt(str(root))


def test_an_image_is_that_of_its_number_alone_and_shows_its_class(small):
    folder, _ = small
    config = ClassificationConfig(**SMALL)
    with Image.open(folder / "synthetic_lt/images/train/synthetic_train_000023.png") as image:
        stored = np.asarray(image)
    np.testing.assert_array_equal(stored, generate_image(config, "train", 23))
    others = [
        generate_image(config, "train", 22),
        generate_image(config, "val", 23),
        generate_image(ClassificationConfig(**SMALL, seed=1), "train", 23),
    ]
    assert all(np.mean(stored != other) > 0.9 for other in others)


@pytest.mark.slow
def test_same_seed_same_bytes_for_any_number_of_workers(small, tmp_path):
    write_classification_dataset(tmp_path, **SMALL, num_workers=2)
    assert hashes(tmp_path) == hashes(small[0] / "synthetic_lt")


def test_an_interrupted_generation_is_done_again_a_whole_one_is_not(tmp_path):
    tiny = {"num_classes": 2, "imbalance": 2, "max_images": 2}
    meta = write_classification_dataset(tmp_path, **tiny)
    whole = hashes(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert write_classification_dataset(tmp_path, **tiny) == meta
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    (tmp_path / "meta.json").unlink()
    (tmp_path / "images" / "val" / "synthetic_val_000001.png").write_bytes(b"half")
    write_classification_dataset(tmp_path, **tiny)
    assert hashes(tmp_path) == whole
    write_classification_dataset(tmp_path, **tiny, seed=1)
    assert hashes(tmp_path).keys() == whole.keys() and hashes(tmp_path) != whole


def test_the_kinds_do_not_overwrite_each_other(small, tmp_path):
    folder = small[0] / "synthetic_lt"
    before = hashes(folder)
    for write in (write_dataset, write_lvis_dataset):
        with pytest.raises(ValueError, match="holds generated data of another kind"):
            write(folder, 1200, 300)
    assert hashes(folder) == before
    (tmp_path / "images" / "test").mkdir(parents=True)
    (tmp_path / "images" / "test" / "cat.png").touch()
    with pytest.raises(ValueError, match=r"cat\.png was not generated"):
        write_classification_dataset(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be from 2 to 48, got 1"),
        ({"num_classes": 49}, "num_classes must be from 2 to 48, got 49"),
        ({"imbalance": 0.5}, "imbalance must be at least 1, got 0.5"),
        ({"max_images": 99}, r"max_images must be at least imbalance \(100\)"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_arguments_out_of_range_write_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_classification_dataset(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_command(root, capsys):
    options = "--classes 3 --imbalance 2 --images 4 --workers 1"
    command = ["--classification", *options.split()]
    generate.main(command)
    out = capsys.readouterr().out
    # round(4 * 2 ** (-k / 2)) = 4, 3, 2
    assert "few: 3 classes, 9 images in train" in out and "many: 0 classes" in out
    assert f"folder: {root}/synthetic_lt" in out
    with pytest.raises(SystemExit, match=r"^error: --images must be at least --imbalance"):
        generate.main([*command, "--imbalance", "5"])
    message = "^error: choose one of --lvis, --hued, --classification and --digits"
    with pytest.raises(SystemExit, match=message):
        generate.main(["--lvis", "--classification"])
    with pytest.raises(SystemExit):
        generate.main([*command, "--num-train", "5"])
    assert "unrecognized arguments: --num-train" in capsys.readouterr().err
