# SPDX-License-Identifier: Apache-2.0
"""Digits-LT: scikit-learn's digits as files, and the four splits."""

import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from sklearn.datasets import load_digits

from longtail.data.formats.digits import split_digits
from longtail.data.prepare import prepare_dataset
from longtail.data.statistics.class_stats import get_class_stats
from tests.data.sources import files_under, run_tool

COUNTS = [104, 62, 37, 22, 13, 8, 5, 3, 2, 1]
DIGITS = load_digits()


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_splits_are_disjoint_and_as_large_as_promised(seed):
    splits = split_digits(DIGITS.target, seed)
    counts = {split: np.bincount(DIGITS.target[i]).tolist() for split, i in splits.items()}
    assert sorted(counts["train"], reverse=True) == COUNTS
    assert counts["balanced"] == [104] * 10
    assert counts["val"] == [20] * 10
    assert counts["test"] == [50] * 10
    sets = {split: set(indices.tolist()) for split, indices in splits.items()}
    assert all(len(sets[split]) == len(splits[split]) for split in splits)
    assert sets["train"] < sets["balanced"]
    for first, second in (("balanced", "val"), ("balanced", "test"), ("val", "test")):
        assert not sets[first] & sets[second]


def test_the_seed_decides_the_images_and_the_order_of_the_classes():
    one, other = split_digits(DIGITS.target, 1), split_digits(DIGITS.target, 2)
    assert not np.array_equal(one["test"], other["test"])
    order = [np.bincount(DIGITS.target[s["train"]]).tolist() for s in (one, other)]
    assert order[0] != order[1]
    again = split_digits(DIGITS.target, 1)
    assert all(np.array_equal(one[split], again[split]) for split in one)


def test_files_hold_scikit_learns_pixels(root):
    report = prepare_dataset("digits_lt", str(root))
    assert (report.written, report.skipped) == (1797 + 4, 0)
    for split, number in (("train", 257), ("val", 200), ("test", 500), ("balanced", 1040)):
        records = DatasetCatalog.get(f"digits_lt_{split}")
        assert len(records) == number
        for record in records:
            index = int(record["file_name"][-8:-4])
            assert record["label"] == DIGITS.target[index]
            with Image.open(record["file_name"]) as image:
                pixels = np.asarray(image)
            assert pixels.shape == (8, 8) and pixels.dtype == np.uint8
            # 16 becomes 255; rounding is off by half a grey value at most.
            assert np.abs(pixels - DIGITS.images[index] * 255 / 16).max() <= 0.5
    assert MetadataCatalog.get("digits_lt_test").thing_classes == list("0123456789")
    counts = get_class_stats("digits_lt_train").image_count
    assert sorted(counts, reverse=True) == COUNTS


def test_the_command_repeats_continues_and_changes_seeds(root, capsys):
    assert run_tool("digits_lt", "--seed", 3) == 0
    first = {name: path.read_bytes() for name, path in files_under(root).items()}
    assert run_tool("digits_lt", "--seed", 3) == 0
    assert "0 written, 1801 skipped" in capsys.readouterr().out
    (root / "digits_lt" / "images" / "0007.png").write_bytes(b"half")
    (root / "digits_lt" / "digits_lt_val.txt").unlink()
    assert run_tool("digits_lt", "--seed", 3) == 0
    assert "2 written, 1799 skipped" in capsys.readouterr().out
    assert {name: path.read_bytes() for name, path in files_under(root).items()} == first
    assert run_tool("digits_lt") == 0
    assert "4 written, 1797 skipped" in capsys.readouterr().out
    assert run_tool("digits_lt", "--seed", -1).endswith("must not be negative, got -1")
    assert run_tool("digits_lt", "--splits", "train").startswith("error: digits_lt takes no --spl")


def test_an_interruption_leaves_no_list_of_another_seed(root, monkeypatch):
    prepare_dataset("digits_lt", str(root), seed=1)
    old = (root / "digits_lt" / "digits_lt_test.txt").read_text()

    def fail(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr("longtail.data.prepare.digits_lt.write_if_changed", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset("digits_lt", str(root), seed=2)
    assert list((root / "digits_lt").glob("*.txt")) == []
    monkeypatch.undo()
    prepare_dataset("digits_lt", str(root), seed=1)
    assert (root / "digits_lt" / "digits_lt_test.txt").read_text() == old


def test_without_scikit_learn_it_says_so_in_one_line(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run_tool("digits_lt") == (
        "error: digits_lt needs scikit-learn: pip install 'detectron2-longtail[digits-lt]'"
    )
