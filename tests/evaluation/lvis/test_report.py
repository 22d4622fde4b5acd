# SPDX-License-Identifier: Apache-2.0
"""The report of an LVIS evaluation from curves that are known, and its table."""

import math

import numpy as np
import pytest

from longtail.evaluation.lvis.report import build_report, format_table
from tests.evaluation.lvis.by_hand import annotations, ground_truth


def curves():
    """(10, 101, 3, 4): precision t/10 of category 0, 1 of category 2, nothing of category 1."""
    precision = np.full((10, 101, 3, 4), np.nan)
    precision[..., 0, 0] = np.arange(10)[:, None] / 10
    precision[..., 2, 0] = 1
    precision[..., 2, 3] = 0  # of other areas nothing is reported
    return precision


def test_report():
    given = {"bbox": {"AP": 72.5, "AP_pool": 60.0}, "segm": {"AP": 10.0}}
    data = annotations([ground_truth()] * 2)
    precision = {("bbox", "standard"): curves(), ("bbox", "fixed"): curves() / 2}
    report = build_report(2, data, given, {**precision, ("segm", "standard"): curves()})
    assert (report["num_images"], report["tasks"]) == (2, given)
    assert list(report) == ["num_images", "tasks", "categories"]
    first, second, third = report["categories"]
    # The mean of 0, 0.1, ..., 0.9.
    assert first["bbox"] == pytest.approx({"AP": 45, "AP_fixed": 22.5})
    assert third["segm"] == pytest.approx({"AP": 100})
    assert math.isnan(second["bbox"]["AP"]) and math.isnan(second["segm"]["AP"])
    assert {key: third[key] for key in ("id", "name", "frequency", "train_images")} == {
        "id": 3,
        "name": "name2",
        "frequency": "f",
        "train_images": 10,
    }
    # The data set's own categories stay as they were.
    assert "bbox" not in data.categories[0]


def test_table_has_a_row_for_each_task_and_mode():
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
    standard = {name: float(n) for n, name in enumerate(names)}
    fixed = {f"{name}_fixed": 10.0 + n for n, name in enumerate(names)}
    pool = {"AP_pool": 30.0, "APr_pool": 31.0, "APc_pool": math.nan, "APf_pool": 33.0}
    text = format_table({"bbox": {**standard, **fixed, **pool}, "segm": standard})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0] == ["", *names]
    assert rows[2] == ["bbox standard", *(f"{n}.00" for n in range(9))]
    assert rows[3] == ["bbox fixed", *(f"{n}.00" for n in range(10, 19))]
    assert rows[4] == ["bbox pool", "30.00", *["-"] * 5, "31.00", "nan", "33.00"]
    assert rows[5] == ["segm standard", *(f"{n}.00" for n in range(9))]
    assert len(rows) == 7 and "percent" in text.splitlines()[6]
