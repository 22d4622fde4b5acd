# SPDX-License-Identifier: Apache-2.0
"""The one form of results of the benchmarks that train, and that their rows can be planned."""

import argparse
import dataclasses
import importlib
import json
import math
import sys
from types import ModuleType

import pytest

from longtail.jobs.plan import Row, make_plan
from tests.jobs.small_rows import finish, write_configs

MEAN = "mean and standard deviation"
DIFFERENCE = "mean difference, its standard error and 95 % confidence interval"
ROWS = {"t": ("base", "second", "new")}


@pytest.fixture
def load(monkeypatch):
    """A function that imports a script, which finds the others as if it were run."""

    def get(name: str) -> ModuleType:
        for other in ("common", "table_results", "merging", "rows", "camvid", name):
            module = importlib.import_module(f"benchmarks.{other}")
            monkeypatch.setitem(sys.modules, other, module)
        return module

    return get


def row_of(load, config, runs, continues="", options=()):
    """A row with runs by seed, of one metric m."""
    runs = {seed: {"m": value} for seed, value in runs.items()}
    return load("table_results").Line(config, options, continues, runs)


def test_a_table_by_hand(load):
    results = load("table_results")
    lines = {
        "base": row_of(load, "a.yaml", {0: 1.0, 1: 3.0}),
        "second": row_of(load, "b.yaml", {0: 2.0, 1: 5.0}, "base"),
        "third": row_of(load, "c.yaml", {0: 2.0, 1: 5.0}, "second", ("K", "1")),
    }
    table = results.table_result(results.Table(lines, {"head": ["x"]}))
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
    assert [line.split()[:2] for line in results.printed(table, "m").splitlines()[2:]] == [
        *(["second", "0,1"], ["third", "0,1"], ["base", "0,1"])
    ]
    in_order = [line.split()[0] for line in results.printed(table).splitlines()[2:]]
    assert in_order == ["base", "second", "third"]


def saved(load, folder, name, tables, options=(), **more):
    """Write a result as a benchmark does."""
    results = load("table_results")
    seeds = {s for t in tables.values() for line in t.lines.values() for s in line.runs}
    written = {key: results.table_result(table) for key, table in tables.items()}
    figures = {"seeds": sorted(seeds), "options": list(options), "tables": written, **more}
    return load("common").save_result(name, figures, folder)


def test_merged_rows_by_hand(load, tmp_path):
    """Two seeds of three rows, and the third seed of two of them and of a new one."""
    results, merging = load("table_results"), load("merging")
    groups = {"head": ["x"]}
    before = {
        "base": row_of(load, "a.yaml", {0: 1.0, 1: 3.0}),
        "second": row_of(load, "b.yaml", {0: 2.0, 1: 5.0}, "base"),
        "old": row_of(load, "o.yaml", {0: 7.0, 1: 9.0, 4: 99.0}),
        "alone": row_of(load, "x.yaml", {4: 8.0}),
    }
    path = saved(load, tmp_path, "before", {"t": results.Table(before, groups)})
    now = {
        "base": row_of(load, "a.yaml", {1: 3.0, 2: 5.0}),
        "second": row_of(load, "b.yaml", {2: 9.0}, "base"),
        "new": row_of(load, "n.yaml", {2: 6.0}),
    }
    own = {"t": results.Table(now, groups)}
    tables = merging.merged(own, merging.read_result(path, []), ROWS, path)
    table = results.table_result(tables["t"])
    assert (
        list(table["rows"]) == ["base", "second", "new", "old", "alone"]
        and table["groups"] == groups
    )
    assert {label: row["seeds"] for label, row in table["rows"].items()} == {
        **{"base": [0, 1, 2], "second": [0, 1, 2], "new": [2]},
        **{"old": [0, 1, 4], "alone": [4]},
    }
    # 1, 3, 5 and 2, 5, 9: mean 16 / 3, squares about it 100 / 9 + 1 / 9 + 121 / 9 = 74 / 3.
    assert table["rows"]["base"][MEAN]["m"] == pytest.approx([3, 2])
    assert table["rows"]["second"][MEAN]["m"] == pytest.approx([16 / 3, math.sqrt(37 / 3)])
    found = {d["row"]: d for d in table[DIFFERENCE]}
    # 1, 2 and 4: mean 7 / 3, squares 16 / 9 + 1 / 9 + 25 / 9 = 14 / 3, error sqrt(7 / 3 / 3).
    assert found["second"]["paired"] and found["second"]["seeds"] == [0, 1, 2]
    assert found["second"]["metrics"]["m"][:2] == pytest.approx([7 / 3, math.sqrt(7) / 3])
    # Of seeds 0 and 1, which base has, too: 7, 9 and 1, 3. Of seed 2: 6 and 5, one run a side.
    assert found["old"]["seeds"] == [0, 1] and not found["old"]["paired"]
    assert found["old"]["metrics"]["m"][:2] == pytest.approx([6, math.sqrt(2 / 2 + 2 / 2)])
    assert found["new"]["seeds"] == [2] and found["new"]["metrics"]["m"][0] == 1
    assert math.isnan(found["new"]["metrics"]["m"][1])
    assert "alone" not in found
    printed = {line.split()[0]: line for line in results.printed(table).splitlines()[2:]}
    assert "0,1,2" in printed["second"] and "+2.33 ± 0.88" in printed["second"]
    # Seed 1 of base is this call's, which has it, too.
    (part,) = merging.origins(tables)
    assert part["seeds"] == {"t": {"base": [0], "second": [0, 1], "old": [0, 1, 4], "alone": [4]}}
    assert part["machine"] == load("common").machine()


def test_merging_again_keeps_where_runs_were_made(load, tmp_path):
    results, merging = load("table_results"), load("merging")

    def table(runs):
        return {"t": results.Table({"base": row_of(load, "a.yaml", runs)}, {})}

    path = saved(load, tmp_path, "first", table({0: 1.0}))
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "machine": {"cpu": "far away"}}))
    both = merging.merged(table({1: 2.0}), merging.read_result(path, []), ROWS, path)
    path = saved(load, tmp_path, "second", both, parts=merging.origins(both))
    # The same call again, with its own result: nothing is counted twice.
    again = merging.merged(table({1: 2.0}), merging.read_result(path, []), ROWS, path)
    assert merging.origins(again) == merging.origins(both)
    third = merging.merged(table({2: math.nan}), merging.read_result(path, []), ROWS, path)
    where = {p["machine"]["cpu"]: p["seeds"]["t"]["base"] for p in merging.origins(third)}
    assert where == {"far away": [0], load("common").machine()["cpu"]: [1]}
    assert [run["m"] for run in third["t"].lines["base"].runs.values()][:2] == [1, 2]


def test_a_result_without_seeds_of_rows_and_with_another_table(load, tmp_path):
    """As they were written before, and NaN, which is null in the file."""
    results, merging = load("table_results"), load("merging")
    old = {"t": results.Table({"base": row_of(load, "a.yaml", {3: 1.0, 5: math.nan})}, {})}
    path = saved(load, tmp_path, "old", old)
    document = json.loads(path.read_text())
    del document["figures"]["tables"]["t"]["rows"]["base"]["seeds"]
    path.write_text(json.dumps(document))
    own = {"u": results.Table({"x": row_of(load, "x.yaml", {0: 1.0})}, {})}
    found = merging.merged(own, merging.read_result(path, []), ROWS, path)
    assert list(found) == ["u", "t"] and list(found["t"].lines["base"].runs) == [3, 5]
    assert math.isnan(found["t"].lines["base"].runs[5]["m"])
    # The same run again, also where it has no value.
    same = {"t": results.Table({"base": row_of(load, "a.yaml", {5: math.nan})}, {})}
    assert list(merging.merged(same, found, ROWS, path)["t"].lines["base"].runs) == [3, 5]


def test_rows_that_are_run_beside_an_earlier_result(load, tmp_path):
    """What another row continues is run again: its checkpoint is needed."""
    results, merging = load("table_results"), load("merging")
    configs = write_configs(tmp_path / "configs")
    rows = {name: Row(configs[name]) for name in ("first", "second")}
    plan = make_plan(rows.values(), (0, 1), tmp_path / "out")
    for job in plan.jobs[1:]:
        finish(job, miou=1)

    def to_run(**seeds):
        runs = {
            k: row_of(load, configs[k], dict.fromkeys(of_row, 1.0)) for k, of_row in seeds.items()
        }
        earlier = {"t": results.Table(runs, {})}
        left = merging.without_earlier({"t": rows}, earlier, plan, tmp_path / "toy.json")
        return list(left.get("t", ()))

    assert to_run() == to_run(first=[1]) == to_run(first=[1], second=[0]) == list(rows)
    assert to_run(second=[0, 1]) == to_run(first=[1], second=[1, 0, 5]) == ["first"]
    assert to_run(first=[0, 1], second=[0, 1]) == []
    # Seed 0 of the first stage is in the result, and would be another run if it were made here.
    with pytest.raises(
        ValueError, match=r"toy\.json has seed 0 of .*first\.yaml, whose run is not"
    ):
        to_run(first=[0, 1], second=[1])
    with pytest.raises(
        ValueError, match=r"toy\.json has seed 0 of .*first\.yaml, whose run is not"
    ):
        to_run(first=[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "other.yaml"}, "row base of t: config and options"),
        ({"options": ("K", "1")}, "row base of t: config and options"),
        ({"runs": {0: {"m": 1.5}}}, r"row base of t has another run of seed 0 \(m 1, here 1.5\)"),
        ({"groups": {"head": ["y"]}}, "t: groups of classes are {'head': \\['x'\\]}, in this call"),
    ],
)
def test_runs_that_cannot_stand_in_one_table(load, tmp_path, change, message):
    results, merging = load("table_results"), load("merging")
    line, groups = row_of(load, "a.yaml", {0: 1.0}), {"head": ["x"]}
    path = saved(load, tmp_path, "before", {"t": results.Table({"base": line}, groups)})
    groups = change.pop("groups", groups)
    own = {"t": results.Table({"base": dataclasses.replace(line, **change)}, groups)}
    with pytest.raises(ValueError, match=f"before.json: {message}") as caught:
        merging.merged(own, merging.read_result(path, []), ROWS, path)
    assert "\n" not in str(caught.value)


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
    rows.add_table_arguments(parser, output="out")
    arguments = parser.parse_args(["--output", str(tmp_path / "out"), "--seeds", "2"])
    rows.run_tables("toy", {"both": table}, arguments)
    figures = written["toy"]
    assert figures["seeds"] == [0, 1] and figures["options"] == [] and "parts" not in figures
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
    assert (
        "both, percent" in said
        and "0,1" in said
        and "+3.50 ± 0.50" in said
        and "IoU tree" not in said
    )


def test_merging_into_a_call(load, tmp_path, monkeypatch):
    """Seed 0 in one folder, then seed 1 in another with the first one's result."""
    rows, configs = load("rows"), write_configs(tmp_path / "configs")
    table = {name: Row(configs[name]) for name in ("first", "second")}
    save = rows.save_result
    monkeypatch.setattr(rows, "save_result", lambda name, figures: save(name, figures, tmp_path))
    parser = argparse.ArgumentParser()
    rows.add_table_arguments(parser, output="out")

    def call(seed, *more):
        arguments = ["--output", str(tmp_path / f"out{seed}"), "--seeds", f"{seed},", *more]
        rows.run_tables("toy", {"both": table}, parser.parse_args(arguments))

    for seed, metrics in ((0, (50, 53)), (1, (52, 56))):
        plan = make_plan(table.values(), (seed,), tmp_path / f"out{seed}")
        for job, miou in zip(plan.jobs, metrics, strict=True):
            finish(job, miou=miou)
    call(0)
    call(1, "--merge", str(tmp_path / "toy.json"))
    figures = json.loads((tmp_path / "toy.json").read_text())["figures"]
    (difference,) = figures["tables"]["both"][DIFFERENCE]
    assert figures["seeds"] == difference["seeds"] == [0, 1] and difference["paired"]
    assert difference["metrics"]["mIoU"][:2] == pytest.approx([3.5, 0.5])
    assert figures["parts"][0]["seeds"] == {"both": {"first": [0], "second": [0]}}
    # A new row alone is run, though the folder lacks what the result has.
    table["third"] = Row(configs["first"], ("SOLVER.MAX_ITER", "7"), "short")
    (job,) = make_plan([table["third"]], (1,), tmp_path / "elsewhere").jobs
    finish(job, miou=60)
    call(1, "--merge", str(tmp_path / "toy.json"), "--output", str(tmp_path / "elsewhere"))
    written = json.loads((tmp_path / "toy.json").read_text())["figures"]["tables"]["both"]
    assert {label: row["seeds"] for label, row in written["rows"].items()} == {
        **{"first": [0, 1], "second": [0, 1], "third": [1]}
    }
    assert written[DIFFERENCE][1]["row"] == "third"
    assert written[DIFFERENCE][1]["metrics"]["mIoU"][0] == 60 - 52
    del table["third"]
    # Before anything is run.
    table["second"] = Row(configs["second"], ("SOLVER.MAX_ITER", "11"))
    monkeypatch.setattr(rows, "run_rows", None)
    with pytest.raises(ValueError, match=r"toy\.json: row second of both: config and options"):
        call(1, "--merge", str(tmp_path / "toy.json"))
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        call(1, "--merge", str(tmp_path / "none.json"))
    (tmp_path / "other.json").write_text('{"figures": {"step": 1}}')
    with pytest.raises(ValueError, match=r"other\.json: not a result of a benchmark that trains"):
        call(1, "--merge", str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match="options '', those of this call 'SEED 3'"):
        load("merging").read_result(tmp_path / "toy.json", ["SEED", "3"])


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        *(
            ("classification", ()),
            ("real_data", ("CCP",)),
            ("digit_scenes", ()),
            ("short_runs", ()),
        ),
        *(
            ("sem_seg_methods", ("--camvid", "x")),
            ("disalign_lvis", ()),
            ("camvid", ("--data", "x")),
        ),
    ],
)
def test_every_benchmark_that_trains_has_the_options_of_tables(load, monkeypatch, name, needed):
    monkeypatch.setattr(sys, "argv", [name, *needed, "--merge", "earlier.json", "--seeds", "5,"])
    arguments = load(name).parse_arguments()
    assert arguments.merge.name == "earlier.json" and arguments.seeds == (5,)
    assert not arguments.dry_run and arguments.output


def test_rows_of_every_benchmark_can_be_planned(load, tmp_path):
    tables = {
        **load("sem_seg_methods").tables(),
        **load("disalign_lvis").tables("LVIS-Synthetic"),
        **load("classification").tables(["digits-LT"], ["linear_disalign", "linear_ncm"]),
        "cifar": load("rows").folder_rows("CIFAR100-LT-40e", None, "linear"),
        **load("short_runs").tables_of(40),
        "hued": load("rows").folder_rows("LVIS-Hued", None, "faster_rcnn_lite0_FPN"),
    }
    found = {}
    for name, table in tables.items():
        jobs = make_plan(table.values(), (0,), tmp_path).jobs
        found[name] = {job.name: job.first and job.first.name for job in jobs}
    assert len(found["CamVid"]) == 7 and len(found["quickstart"]) == 5
    assert len(found["cosine"]) == 3 and len(found["cifar"]) == 17
    assert len(found["hued"]) == 8 and sum(first is None for first in found["hued"].values()) == 3
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
