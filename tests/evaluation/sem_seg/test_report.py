# SPDX-License-Identifier: Apache-2.0
"""The report of a confusion matrix by hand, and its tables."""

import math

import pytest
import torch

from longtail.evaluation.report import flat_results
from longtail.evaluation.sem_seg.report import LAYOUT, build_report, format_tables

# Rows are targets. Class 0: 6 right of 8 (2 taken for 1); class 1: 3 of 4; class 2 has no ground
# truth, class 3: 4 pixels, all taken for 2.
CONFUSION = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0]])
NAMES = ["wall, hall", "tree", "bus", "car"]
GROUPS = {"tail": [3, 1], "head": [0], "none": [2]}
# Not in the order of the evaluated pixels.
COUNTS = {"train_pixels": [20, 30, 0, 150], "train_images": [4, 5, 0, 9]}
# Hits over target + predicted - hits.
IOU = {0: 100 * 6 / (8 + 7 - 6), 1: 100 * 3 / (4 + 5 - 3), 3: 0}
ACC = {0: 75, 1: 75, 3: 0}


def test_report():
    report = build_report(CONFUSION, NAMES, GROUPS, COUNTS)
    assert report["mIoU"] == pytest.approx(sum(IOU.values()) / 3, abs=1e-12)
    assert report["mAcc"] == pytest.approx(50, abs=1e-12)
    assert report["aAcc"] == pytest.approx(100 * 9 / 16, abs=1e-12)
    # Weights 8/16, 4/16, 4/16.
    assert report["fwIoU"] == pytest.approx(IOU[0] / 2 + IOU[1] / 4, abs=1e-12)
    assert list(report["groups"]) == ["tail", "head", "none"]
    tail = {"mIoU": IOU[1] / 2, "mAcc": 37.5, "num_classes": 2}
    assert report["groups"]["tail"] == pytest.approx(tail, abs=1e-12)
    assert report["groups"]["head"]["mIoU"] == pytest.approx(IOU[0], abs=1e-12)
    assert math.isnan(report["groups"]["none"]["mAcc"])
    assert report["groups"]["none"]["num_classes"] == 1
    for index, row in enumerate(report["classes"]):
        counts = ["train_pixels", "train_images", "train_share", "test_pixels"]
        assert list(row) == ["index", "name", "group", *counts, "IoU", "Acc"]
        assert (row["index"], row["name"]) == (index, NAMES[index])
        assert row["group"] == ["head", "tail", "none", "tail"][index]
        assert row["test_pixels"] == [8, 4, 0, 4][index]
        assert row["train_images"] == [4, 5, 0, 9][index]
        assert row["train_share"] == pytest.approx([10, 15, 0, 75][index], abs=1e-12)
        if index == 2:
            assert math.isnan(row["IoU"]) and math.isnan(row["Acc"])
        else:
            assert row["IoU"] == pytest.approx(IOU[index], abs=1e-12)
            assert row["Acc"] == pytest.approx(ACC[index], abs=1e-12)


def test_flat_results_have_the_names_that_configs_verify():
    flat = flat_results(build_report(CONFUSION, NAMES, GROUPS, COUNTS), LAYOUT)
    groups = ("tail", "head", "none")
    assert list(flat) == [
        *("mIoU", "mAcc", "aAcc", "fwIoU"),
        *(f"mIoU-{group}" for group in groups),
        *(f"mAcc-{group}" for group in groups),
        *(f"IoU-{name}" for name in NAMES),
        *(f"Acc-{name}" for name in NAMES),
    ]
    assert flat["mAcc-tail"] == pytest.approx(37.5, abs=1e-12)
    assert flat["IoU-tree"] == pytest.approx(IOU[1], abs=1e-12)


def test_tables():
    """Classes go down the columns, 3 of them beside one another, by their first names."""
    names = [f"class{c}, other" for c in range(7)]
    report = build_report(torch.diag(torch.arange(7)), names, {"all": range(7)}, {})
    text = format_tables(report)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0] == ["classes", "number", "mIoU", "mAcc"]
    assert rows[2] == ["all", "7", "100.00", "100.00"]
    assert "aAcc 100.00, fwIoU 100.00" in text
    assert rows[-5] == ["class", "IoU", "Acc"] * 3
    right, none = ["100.00"] * 2, ["nan"] * 2
    assert rows[-3] == ["class0", *none, "class3", *right, "class6", *right]
    assert rows[-2] == ["class1", *right, "class4", *right, "", "", ""]
    assert rows[-1] == ["class2", *right, "class5", *right, "", "", ""]
