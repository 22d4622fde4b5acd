# SPDX-License-Identifier: Apache-2.0
"""The dicts, files and tables that the reports of several tasks share, by hand."""

import csv
import json
import math

import pytest
import torch

from longtail.evaluation.report import (
    ReportLayout,
    class_rows,
    flat_results,
    group_entries,
    group_of_classes,
    group_table,
    plain_table,
    write_report,
)

LAYOUT = ReportLayout(
    file_name="toy_evaluation",
    overall=("score", "mean"),
    of_groups=("mean", "best"),
    of_classes=("value", "other"),
)
REPORT = {
    "dataset": "toy",
    "score": 12.5,
    "mean": 50.0,
    "best": 75.0,
    "groups": {
        "tail": {"mean": 25.0, "best": 30.0, "num_classes": 2},
        "none": {"mean": math.nan, "best": math.nan, "num_classes": 0},
    },
    "classes": [
        {"index": 0, "name": "a, b", "value": 10.0, "other": math.nan, "group": None},
        {"index": 1, "name": "c", "value": 20.125, "other": 3.0, "group": "tail"},
    ],
}


def test_groups_have_the_mean_of_their_classes_and_their_number():
    values = {
        "a": torch.tensor([1.0, 2.0, 4.0, math.nan]),
        "b": torch.tensor([10.0, 20.0, 40.0, 80.0]),
    }
    entries = group_entries(values, {"x": [2, 0], "y": [3]})
    assert list(entries) == ["x", "y"] and list(entries["x"]) == ["a", "b", "num_classes"]
    assert entries["x"] == {"a": 2.5, "b": 25, "num_classes": 2}
    assert math.isnan(entries["y"]["a"])
    assert (entries["y"]["b"], entries["y"]["num_classes"]) == (80, 1)
    assert group_entries(values, {}) == {}


def test_group_of_each_class():
    assert group_of_classes({"x": [2, 0], "y": [3], "z": []}, 5) == ["x", None, "x", "y", None]
    assert group_of_classes({}, 2) == [None, None]


def test_columns_become_rows():
    rows = class_rows({"index": range(2), "name": ["a", "b"], "value": [1.5, None]})
    assert rows == [
        {"index": 0, "name": "a", "value": 1.5},
        {"index": 1, "name": "b", "value": None},
    ]
    assert list(rows[0]) == ["index", "name", "value"]
    with pytest.raises(ValueError, match="zip"):
        class_rows({"index": range(2), "name": ["a"]})


def test_flat_results_in_their_order():
    flat = flat_results(REPORT, LAYOUT)
    assert list(flat) == [
        *("score", "mean"),
        *("mean-tail", "mean-none", "best-tail", "best-none"),
        *("value-a, b", "value-c", "other-a, b", "other-c"),
    ]
    assert (flat["score"], flat["mean"], flat["mean-tail"], flat["best-tail"]) == (12.5, 50, 25, 30)
    assert (flat["value-a, b"], flat["value-c"], flat["other-c"]) == (10, 20.125, 3)
    assert math.isnan(flat["best-none"]) and math.isnan(flat["other-a, b"])


def test_of_classes_with_the_same_name_the_last_counts():
    rows = [{"name": "x", "value": 1.0, "other": 2.0}, {"name": "x", "value": 3.0, "other": 4.0}]
    flat = flat_results({**REPORT, "classes": rows}, LAYOUT)
    assert (flat["value-x"], flat["other-x"]) == (3, 4)


def test_files(tmp_path):
    write_report(REPORT, tmp_path / "new" / "folder", LAYOUT)
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [
        "toy_evaluation.csv",
        "toy_evaluation.json",
    ]
    expected = json.loads(json.dumps(REPORT).replace("NaN", "null"))
    assert json.loads((folder / "toy_evaluation.json").read_text()) == expected
    # NaN and None are empty; a comma in a name is quoted.
    assert (folder / "toy_evaluation.csv").read_bytes() == (
        b'index,name,value,other,group\n0,"a, b",10.0,,\n1,c,20.125,3.0,tail\n'
    )
    with open(folder / "toy_evaluation.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a, b", "c"]


def test_names_that_a_spreadsheet_would_run(tmp_path):
    rows = [{"name": "=HYPERLINK(1)", "value": -1.5}, {"name": "@x", "value": 2.0}]
    write_report({**REPORT, "classes": rows}, tmp_path, LAYOUT)
    assert (tmp_path / "toy_evaluation.csv").read_text() == (
        "name,value\n'=HYPERLINK(1),-1.5\n'@x,2.0\n"
    )
    assert json.loads((tmp_path / "toy_evaluation.json").read_text())["classes"] == rows


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_table_of_all_classes_and_the_groups():
    rows = cells(group_table(REPORT, LAYOUT))
    assert rows[0] == ["classes", "number", "mean", "best"]
    assert rows[2:] == [
        ["all", "2", "50.00", "75.00"],
        ["tail", "2", "25.00", "30.00"],
        ["none", "0", "nan", "nan"],
    ]


def test_cells_that_are_missing():
    rows = [["x", 1.005, None], ["y"]]
    assert cells(plain_table(rows, ["a", "b", "c"]))[2:] == [["x", "1.00", ""], ["y", "", ""]]
    assert cells(plain_table(rows, ["a", "b", "c"], "-"))[2:] == [
        ["x", "1.00", "-"],
        ["y", "-", "-"],
    ]
