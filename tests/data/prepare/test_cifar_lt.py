# SPDX-License-Identifier: Apache-2.0
"""CIFAR with a long tail: profiles, and images of both kinds of sources, pixel by pixel."""

import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.data.datasets import cifar_lt, datasets_root, register_all
from longtail.data.prepare import cifar_lt as preparing
from longtail.data.prepare import prepare_dataset
from longtail.evaluation import ClassificationEvaluator
from tests.messages import raises_naming

NAMES = ["apple", "bed", "cup"]
# Of the classes, in the tiny version of the data set.
TRAIN, TEST = 200, 2


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """CIFAR-100 with 3 classes, 200 training and 2 test images of each; the folder of all data."""
    small = dataclasses.replace(
        cifar_lt.CIFARS["cifar100_lt"], num_classes=3, train_images=TRAIN, test_images=TEST
    )
    monkeypatch.setitem(cifar_lt.CIFARS, "cifar100_lt", small)
    register_all(str(tmp_path / "datasets"))
    yield tmp_path / "datasets"
    monkeypatch.undo()
    register_all(datasets_root())


def records(split, seed):
    """(n, 2 + 3072) bytes as in the archive: the classes are mixed."""
    number = {"train": TRAIN, "test": TEST}[split] * 3
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 3).astype(np.uint8)
    pixels = rng.integers(0, 256, (number, 3072)).astype(np.uint8)
    return np.concatenate([labels[:, None] + 7, labels[:, None], pixels], axis=1)


def write_archive(path, cut=0):
    with tarfile.open(path, "w:gz") as archive:
        files = {
            "fine_label_names.txt": "\n".join(NAMES).encode(),
            "coarse_label_names.txt": b"fruit\nfurniture",
            "train.bin": records("train", 1).tobytes()[cut:],
            "test.bin": records("test", 2).tobytes(),
        }
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_mosaics(folder, counts):
    """Of the first images of each class in the archive."""
    for split, seed in (("train", 1), ("test", 2)):
        (folder / split).mkdir(parents=True)
        rows = records(split, seed)
        for index, name in enumerate(NAMES):
            images = rows[rows[:, 1] == index, 2:][: counts[split][index]]
            lines = -(-len(images) // 25)
            canvas = np.zeros((lines * 32, 25 * 32, 3), np.uint8)
            for n, image in enumerate(images):
                y, x = 32 * (n // 25), 32 * (n % 25)
                canvas[y : y + 32, x : x + 32] = image.reshape(3, 32, 32).transpose(1, 2, 0)
            Image.fromarray(canvas).save(folder / split / f"{index:03d}_{name}.png")
    index = {"classes": NAMES, **{f"{split}_counts": counts[split] for split in counts}}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def check_images(dataset, split, seed, counts):
    rows = records(split, seed)
    found = DatasetCatalog.get(dataset)
    assert np.bincount([r["label"] for r in found], minlength=3).tolist() == counts
    assert MetadataCatalog.get(dataset).thing_classes == NAMES
    expected = [
        image.reshape(3, 32, 32).transpose(1, 2, 0)
        for index in range(3)
        for image in rows[rows[:, 1] == index, 2:][: counts[index]]
    ]
    for record, pixels in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.array(Image.open(record["file_name"])), pixels)


@pytest.mark.parametrize(
    ("name", "imbalance", "number", "first", "last"),
    [
        ("cifar100_lt", 10, 19573, 500, 50),
        ("cifar100_lt", 50, 12608, 500, 10),
        ("cifar100_lt", 100, 10847, 500, 5),
        ("cifar100_lt", 200, 9502, 500, 2),
        ("cifar10_lt", 100, 12406, 5000, 50),
    ],
)
def test_the_usual_profiles(name, imbalance, number, first, last):
    """The numbers of images that are published with these data sets."""
    profile = cifar_lt.CIFARS[name].profile(imbalance)
    assert (sum(profile), profile[0], profile[-1]) == (number, first, last)


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_binary_archive(tiny, tmp_path, unpacked):
    source = write_archive(tmp_path / "archive.tar.gz")
    if unpacked:
        with tarfile.open(source) as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
        source = tmp_path / "unpacked"
    report = prepare_dataset("cifar100_lt", str(tiny), source=str(source))
    assert (report.written, report.problems, report.warnings) == (3 * (TRAIN + TEST) + 6, [], [])
    # 200 * 10^(-c / 2) and 200 * 100^(-c / 2).
    check_images("cifar100_lt_if10_train", "train", 1, [200, 63, 20])
    check_images("cifar100_lt_if100_train", "train", 1, [200, 20, 2])
    check_images("cifar100_lt_if10_balanced", "train", 1, [200, 200, 200])
    check_images("cifar100_lt_test", "test", 2, [2, 2, 2])
    again = prepare_dataset("cifar100_lt", str(tiny), source=str(source))
    assert (again.written, again.skipped) == (0, report.written)
    # One test set for all imbalances: the training set tells the groups.
    for name, counts in (
        ("if10_train", [200, 63, 20]),
        ("if100_train", [200, 20, 2]),
        # What the empirical bound trains on: the groups are those of the images with a tail.
        ("if100_balanced", [200, 20, 2]),
    ):
        training = (f"cifar100_lt_{name}",)
        evaluator = ClassificationEvaluator(
            "cifar100_lt_test", output_dir=str(tmp_path / "report"), training_sets=training
        )
        evaluator.process(
            [{"image_id": n} for n in range(6)], [{"scores": s} for s in torch.eye(3).repeat(2, 1)]
        )
        evaluator.evaluate()
        report = json.loads((tmp_path / "report" / "classification_evaluation.json").read_text())
        assert [entry["train_images"] for entry in report["classes"]] == counts


def test_mosaics_of_what_the_smallest_imbalance_needs(tiny, tmp_path):
    counts = {"train": [200, 63, 20], "test": [2, 2, 2]}
    source = write_mosaics(tmp_path / "mosaics", counts)
    report = prepare_dataset("cifar100_lt", str(tiny), source=str(source))
    (warning,) = report.warnings
    assert "cifar100_lt_balanced" in warning and "bed" in warning
    check_images("cifar100_lt_if10_train", "train", 1, [200, 63, 20])
    check_images("cifar100_lt_if200_train", "train", 1, [200, 14, 1])
    check_images("cifar100_lt_test", "test", 2, [2, 2, 2])
    with raises_naming(
        FileNotFoundError, "cifar100_lt_if100_balanced", "longtail prepare cifar100_lt"
    ):
        DatasetCatalog.get("cifar100_lt_if100_balanced")


def test_bad_sources(tiny, tmp_path):
    def prepare(source):
        return preparing.prepare_cifar_lt("cifar100_lt", str(tiny), str(source))

    with raises_naming(FileNotFoundError, "gone", "cifar-100-binary.tar.gz"):
        prepare(tmp_path / "gone")
    with raises_naming(ValueError, "cut.tar.gz", "train", str(3 * TRAIN * 3074)):
        prepare(write_archive(tmp_path / "cut.tar.gz", cut=5))
    whole = write_archive(tmp_path / "half.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    with raises_naming(ValueError, "half.tar.gz", "download it again"):
        prepare(tmp_path / "half.tar.gz")
    (tmp_path / "empty").mkdir()
    with raises_naming(ValueError, "empty", "fine_label_names.txt"):
        prepare(tmp_path / "empty")
    (tmp_path / "empty" / "index.json").write_text('{"classes": ["a"]}')
    with raises_naming(ValueError, "index.json"):
        prepare(tmp_path / "empty")
