# SPDX-License-Identifier: Apache-2.0
"""The one form of results of the benchmarks that train, and that their rows can be planned."""

import argparse
import importlib
import json
import math
import sys
from types import ModuleType

import pytest

from longtail.jobs.arguments import add_run_arguments
from longtail.jobs.plan import Row, make_plan
from tests.jobs.small_rows import finish, write_configs

MEAN = "mean and standard deviation"
DIFFERENCE = "mean difference, its standard error and 95 % confidence interval"


@pytest.fixture
def load(monkeypatch):
    """A function that imports a script, which finds the others as if it were run."""

    def get(name: str) -> ModuleType:
        for other in ("common", "rows", "camvid", name):
            module = importlib.import_module(f"benchmarks.{other}")
            monkeypatch.setitem(sys.modules, other, module)
        return module

    return get


def test_a_table_by_hand(load):
    rows = load("rows")
    lines = {
        "base": rows.Line("a.yaml", (), "", ({"m": 1.0}, {"m": 3.0})),
        "second": rows.Line("b.yaml", (), "base", ({"m": 2.0}, {"m": 5.0})),
        "third": rows.Line("c.yaml", ("K", "1"), "second", ({"m": 2.0}, {"m": 5.0})),
    }
    table = rows.table_result(lines, {"head": ["x"]})
    # Deviations: |1 - 3| / sqrt(2), |2 - 5| / sqrt(2).
    assert table["rows"]["base"][MEAN]["m"] == pytest.approx([2, math.sqrt(2)])
    assert table["rows"]["third"][MEAN]["m"] == pytest.approx([3.5, 3 / math.sqrt(2)])
    assert table["rows"]["third"]["options"] == ["K", "1"] and table["groups"] == {"head": ["x"]}
    found = {(d["row"], d["base"]): d for d in table[DIFFERENCE]}
    assert {pair: d["paired"] for pair, d in found.items()} == {
        **{("second", "base"): True, ("third", "base"): False, ("third", "second"): True},
    }
    # Pairs differ by 1 and 2: error (1 / sqrt(2)) / sqrt(2). Groups: sqrt(2 / 2 + 4.5 / 2).
    mean, error, low, high = found["second", "base"]["metrics"]["m"]
    assert (mean, error) == pytest.approx((1.5, 0.5))
    assert (low + high) / 2 == pytest.approx(1.5) and high - mean == pytest.approx(
        0.5 * 12.706, 1e-4
    )
    assert found["third", "base"]["metrics"]["m"][1] == pytest.approx(math.sqrt(3.25))
    assert found["third", "second"]["metrics"]["m"] == [0, 0, 0, 0]
    assert [line.split()[0] for line in rows.printed(table).splitlines()[2:]] == [
        *("second", "third", "base")
    ]


def test_results_of_finished_runs(load, tmp_path, monkeypatch, capsys):
    rows, configs = load("rows"), write_configs(tmp_path / "configs")
    table = {name: Row(configs[name]) for name in ("first", "second")}
    plan = make_plan(table.values(), (0, 1), tmp_path / "out")
    for job, miou in zip(plan.jobs, (50, 52, 53, 56), strict=True):
        finish(job, miou=miou)
    times = [{"iteration": n, "time": time} for n, time in enumerate((9.0, 0.5, 0.75))]
    (plan.jobs[0].folder / "metrics.json").write_text("\n".join(map(json.dumps, times)))
    written = {}
    monkeypatch.setattr(rows, "save_result", lambda name, figures: written.update({name: figures}))
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    arguments = parser.parse_args(["--output", str(tmp_path / "out"), "--seeds", "2"])
    rows.run_tables("toy", {"both": table}, arguments)
    figures = written["toy"]
    assert figures["seeds"] == [0, 1] and figures["options"] == []
    both = figures["tables"]["both"]
    assert both["groups"] == {"head": ["road"], "body": ["tree"], "tail": ["pole"]}
    assert [row["continues"] for row in both["rows"].values()] == [None, "first"]
    assert both["rows"]["second"]["config"] == configs["second"]
    assert [run["mIoU"] for run in both["rows"]["second"]["runs"]] == [53, 56]
    assert both["rows"]["first"]["runs"][0]["IoU tree"] == 40
    assert both["rows"]["first"]["seconds an iteration"][0] == 0.75
    # Two classes alone have an IoU, and the larger one the larger.
    assert both["rows"]["first"]["runs"][0]["Pearson IoU, pixels"] == pytest.approx(100)
    assert both[DIFFERENCE][0]["paired"] and both[DIFFERENCE][0]["metrics"]["mIoU"][0] == 3.5
    said = capsys.readouterr().out
    assert "both, 2 seeds" in said and "+3.50 ± 0.50" in said and "IoU tree" not in said


def test_rows_of_every_benchmark_can_be_planned(load, tmp_path):
    tables = {
        **load("sem_seg_methods").tables(),
        **load("disalign_lvis").tables("LVIS-Synthetic"),
        **load("classification").tables(["digits-LT"], ["linear_disalign", "linear_ncm"]),
        "cifar": load("rows").folder_rows("CIFAR100-LT-40e", None, "linear"),
        **load("short_runs").tables_of(40),
    }
    found = {}
    for name, table in tables.items():
        jobs = make_plan(table.values(), (0,), tmp_path).jobs
        found[name] = {job.name: job.first and job.first.name for job in jobs}
    assert len(found["CamVid"]) == 5 and len(found["cosine"]) == 3 and len(found["cifar"]) == 17
    models = found["CCP today's models"]
    assert len(models) == 9 and len(found["CCP samplers"]) == 6
    first = {
        name: models[f"CCP/{name}_disalign/seed0"]
        for name in ("mask2former_lite0", "linear_dinov2_S")
    }
    assert first == {name: f"CCP/{name}/seed0" for name in first}
    model = "CamVid/deeplabv3plus_lite0"
    assert found["CamVid"][f"{model}_rr_disalign/seed0"] == f"{model}_rr/seed0"
    assert found["CamVid"][f"{model}/longer/seed0"] is None
    assert found["digits-LT"] == {
        "digits-LT/linear/seed0": None,
        "digits-LT/linear_disalign/seed0": "digits-LT/linear/seed0",
        "digits-LT/linear_ncm/seed0": "digits-LT/linear/seed0",
    }
