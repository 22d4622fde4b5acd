# SPDX-License-Identifier: Apache-2.0
"""longtail analyze-conditions on runs that were written by hand."""

import json

import pytest
from region_rebalance.commands import analyze_conditions

from tests.finished_runs import write_run

# Of class 0, "road", Acc rises from 40 to 60 %: up to 80 false positives instead of 20 are fine.
BASELINE = [[40, 60, 0], [20, 980, 0], [0, 0, 0]]
PIXEL = [[60, 40, 0], [81, 919, 0], [0, 0, 0]]
REGION = [[60, 40, 0], [79, 921, 0], [0, 0, 0]]


@pytest.fixture
def runs(tmp_path):
    matrices = {"baseline": BASELINE, "pixel": PIXEL, "region": REGION}
    return [write_run(tmp_path / name, {}, confusion=m) for name, m in matrices.items()]


def test_two_methods(runs, tmp_path, capsys):
    analyze_conditions.main([*map(str, runs), "--output", str(tmp_path)])
    values = json.loads((tmp_path / "conditions.json").read_text())
    assert values["violations"] == {"first_only": 1, "second_only": 0, "both": 0, "neither": 2}
    pixel, region = (values["conditions"][name] for name in ("pixel", "region"))
    assert (pixel["summary"]["applies"], pixel["summary"]["violated"]) == (1, 1)
    assert (region["summary"]["holds"], region["summary"]["rose_though_violated"]) == (1, 0)
    road = pixel["classes"][0]
    assert (road["name"], road["pixels"], road["false_positives_after"]) == ("road", 100, 81)
    assert (road["gain"], road["left"], road["right"]) == pytest.approx((0.5, 51, 50))
    # Without ground truth.
    assert pixel["classes"][2]["iou"] is None
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["road", "50", "20", "81", "100", "51", "50", "NO", "33.33", "-0.18"] in lines
    assert any(line[:8] == ["road", "50", "20", "79", "100", "49", "50", "yes"] for line in lines)
    assert ["pixel", "1"] in lines and ["region", "0"] in lines and ["neither", "2"] in lines
    assert (tmp_path / "conditions.png").is_file() and (tmp_path / "conditions.svg").is_file()


def test_one_method(runs, tmp_path):
    analyze_conditions.main([*map(str, runs[:2]), "--output", str(tmp_path)])
    assert "violations" not in json.loads((tmp_path / "conditions.json").read_text())


def test_other_ground_truth(runs, tmp_path):
    other = write_run(tmp_path / "other", {}, confusion=[[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(SystemExit, match=r"error: .* same ground truth"):
        analyze_conditions.main([str(runs[0]), str(other), "--output", str(tmp_path)])
