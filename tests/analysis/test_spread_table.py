# SPDX-License-Identifier: Apache-2.0
"""Tables of means and deviations over runs, with deviations by hand."""

import csv
import io
import math

import pytest

from longtail.analysis.spread_table import spread_table

# Deviations of one and of two runs: none, and |a - b| / sqrt(2).
GROUPS = {
    ("0.1",): [{"mIoU": 50.0, "mAcc": 60.0}],
    ("0.2",): [{"mIoU": 50.0, "mAcc": 60.0}, {"mIoU": 52.0, "mAcc": math.nan, "aAcc": 1.0}],
}


def test_text():
    lines = spread_table(GROUPS, ["WEIGHT"]).splitlines()
    assert lines[0].split() == ["percent", "WEIGHT", "0.1", "WEIGHT", "0.2"]
    assert [line.split() for line in lines[2:]] == [
        ["mIoU", "50.00", "51.00", "±", "1.41"],
        ["mAcc", "60.00", "-"],
    ]


def test_markdown():
    groups = {("1", "a"): [{"mIoU": 50.0}], ("2", "a|b"): [{"mIoU": 52.0}]}
    lines = spread_table(groups, ["N", "NAME"], "markdown").splitlines()
    assert "| N 1, NAME a" in lines[0] and lines[1].startswith("|--")
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["mIoU", "50.00", "52.00"]


def test_csv():
    rows = list(csv.DictReader(io.StringIO(spread_table(GROUPS, ["WEIGHT"], "csv"))))
    assert [row["WEIGHT"] for row in rows] == ["0.1", "0.2"]
    assert [row["runs"] for row in rows] == ["1", "2"]
    assert [row["mIoU"] for row in rows] == ["50.0", "51.0"]
    assert rows[0]["mIoU deviation"] == ""
    assert float(rows[1]["mIoU deviation"]) == pytest.approx(2**0.5)
    assert rows[1]["mAcc"] == "" and "aAcc" not in rows[0]


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="html"):
        spread_table(GROUPS, ["WEIGHT"], "html")
