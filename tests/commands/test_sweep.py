# SPDX-License-Identifier: Apache-2.0
"""longtail sweep: values of keys as rows, the table of their runs, and real runs once."""

import csv
import io
import sys
from pathlib import Path

import pytest

from longtail.analysis.runs import find_runs
from longtail.commands.sweep import build_parser, main, parse_values, rows_of, short_names, sweep
from longtail.data.synthetic import write_classification_dataset
from longtail.jobs.plan import make_plan
from tests.jobs.small_rows import finish, write_configs
from tests.messages import assert_names, raises_naming

RATE, ITERATIONS = "SOLVER.BASE_LR", "SOLVER.MAX_ITER"
TAU, METHOD = "MODEL.POST_HOC.TAU", "MODEL.POST_HOC.METHOD"


@pytest.fixture
def configs(tmp_path):
    return write_configs(tmp_path / "configs")


def run(tmp_path, *options):
    sweep(build_parser().parse_args([*options, "--output", str(tmp_path / "out")]))


def test_values():
    assert parse_values([f"{RATE}=0.1,1", "A.B=('x', 2),[3,4],\"a,b\""]) == {
        RATE: ["0.1", "1"],
        "A.B": ["('x', 2)", "[3,4]", '"a,b"'],
    }
    for text in (RATE, f"{RATE}=", "=1", f"{RATE}=1,,2"):
        with raises_naming(ValueError, "KEY=V1,V2"):
            parse_values([text])
    for texts in ([f"{RATE}=1,1"], [f"{RATE}=1", f"{RATE}=2"]):
        with raises_naming(ValueError, "once"):
            parse_values(texts)


def test_every_combination_is_a_row(configs):
    rows = rows_of(configs["second"], {RATE: ["0.1", "0.2"], "DATASETS.TEST": ["('a/b',)"]})
    assert list(rows) == [("0.1", "('a/b',)"), ("0.2", "('a/b',)")]
    row = rows["0.2", "('a/b',)"]
    assert row.options == (RATE, "0.2", "DATASETS.TEST", "('a/b',)")
    assert "/" not in row.variant and row.variant.startswith("BASE_LR=0.2,TEST=")
    assert short_names([RATE, "X.BASE_LR"]) == [RATE, "X.BASE_LR"]


def test_table_of_finished_runs(configs, tmp_path, capsys):
    rows = rows_of(configs["second"], {RATE: ["0.1", "1"]})
    plan = make_plan(rows.values(), (0, 1, 2), tmp_path / "out")
    for row, values in zip(rows.values(), ((50, 52, 54), (60, 60, 60)), strict=True):
        for job, miou in zip(plan.by_row[row], values, strict=True):
            finish(job, miou=miou)
    for job in plan.jobs[:3]:
        finish(job)
    run(tmp_path, configs["second"], f"{RATE}=0.1,1")
    title, _, *lines = capsys.readouterr().out.strip().splitlines()[:4]
    assert_names(title, "second.yaml", "toy_val", "3 seeds")
    assert lines[1].split() == ["mIoU", "52.00", "±", "2.00", "60.00", "±", "0.00"]
    run(tmp_path, configs["second"], f"{RATE}=0.1,1", "--format", "csv")
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["BASE_LR"], first["mIoU"], first["mIoU deviation"]) == (
        "0.1",
        "52.0",
        "2.0",
    )
    # The third class has no ground truth.
    assert (second["mIoU"], second["mIoU tail"]) == ("60.0", "")


def test_dry_run_trains_the_first_stage_once(configs, tmp_path, capsys):
    run(tmp_path, configs["second"], f"{RATE}=0.1,0.2,0.3", "--seeds", "2", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# Stage 1: 2 jobs, 0 of them done",
        "# Stage 2: 6 jobs, 0 of them done",
    ]
    options = (f"{RATE}=1", "--seeds", "1", "--dry-run", "--dataset", "other")
    run(tmp_path, configs["second"], *options)
    _, first, _, second = capsys.readouterr().out.splitlines()
    # The first stage is that of other calls as well.
    assert "DATASETS.TEST" not in first and first.endswith("/out/first/seed0")
    assert "DATASETS.TEST '('\"'\"'other'\"'\"',)'" in second
    assert second.endswith("/out/second/other/BASE_LR=1/seed0")


def test_bad_input_is_one_line(configs, tmp_path):
    for options, parts in (
        ((configs["first"], "SOLVER.BASE_LRS=1"), ("SOLVER.BASE_LRS", RATE)),
        ((configs["first"], f"{ITERATIONS}=many"), (ITERATIONS, "many")),
        ((configs["first"], f"{TAU}=0,1"), (TAU, METHOD, "tau_norm", "--weights")),
        ((configs["post_hoc"], f"{TAU}=0,1", "--weights", "w.pth"), ("--weights", "--dataset")),
        ((configs["first"], f"{RATE}=1", "--weights", "w.pth"), ("--weights", TAU, RATE)),
        (
            (configs["post_hoc"], "MODEL.POST_HOC.LAMBDA=1", "--weights", "w", "--dataset", "d"),
            ("MODEL.POST_HOC.LAMBDA", "tau_norm"),
        ),
    ):
        with raises_naming(ValueError, *parts):
            run(tmp_path, *options)
    with raises_naming(FileNotFoundError, "no.yaml"):
        run(tmp_path, "no.yaml", f"{RATE}=1")


def test_modules_of_ones_own_reach_every_run(configs, tmp_path, monkeypatch, capsys):
    """The first stage needs it, and so does whoever plans: the config alone may not name it."""
    for name in ("sweep_losses", "sweep_heads"):
        (tmp_path / f"{name}.py").write_text("")
        monkeypatch.delitem(sys.modules, name, raising=False)
    first = Path(configs["first"])
    first.write_text(first.read_text() + "IMPORTS: [sweep_losses, sweep_heads]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    call = (configs["second"], f"{RATE}=0.1,0.2", "--seeds", "1", "--dry-run")
    allowed = ("--import", "sweep_losses", "--import", "sweep_heads")
    with raises_naming(ValueError, "IMPORTS", "--import sweep_heads"):
        run(tmp_path, *call, *allowed[:2])
    run(tmp_path, *call, *allowed)
    commands = [line for line in capsys.readouterr().out.splitlines() if line[0] != "#"]
    assert len(commands) == 3
    assert all(f" {' '.join(allowed)} " in line for line in commands)
    one_pass = ("--weights", "w.pth", "--dataset", "toy_val")
    run(tmp_path, configs["post_hoc"], f"{TAU}=0,1", "--dry-run", *one_pass, *allowed)
    assert capsys.readouterr().out.count("in one pass") == 2


SMALL = """\
_BASE_: {base}
MODEL: {{DEVICE: cpu, CLASSIFIER: {{NUM_CLASSES: 4}}}}
SOLVER: {{IMS_PER_BATCH: 4, MAX_ITER: 2}}
DATALOADER: {{NUM_WORKERS: 0}}
OUTPUT_DIR: output/small
"""
SCALED = """\
_BASE_: small.yaml
MODEL: {WEIGHTS: output/small/model_final.pth, POST_HOC: {METHOD: tau_norm}}
OUTPUT_DIR: output/scaled
"""


def test_from_configs_to_the_table(tmp_path, monkeypatch, capsys):
    """A first stage is trained, two strengths of its classifier are evaluated; then all is done."""
    write_classification_dataset(
        tmp_path / "data" / "synthetic_lt", num_classes=4, max_images=6, imbalance=3
    )
    base = Path(__file__).resolve().parents[2] / "configs" / "synthetic-LT" / "linear.yaml"
    (tmp_path / "small.yaml").write_text(SMALL.format(base=base))
    (tmp_path / "scaled.yaml").write_text(SCALED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "data")
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path))
    options = ["scaled.yaml", f"{TAU}=0,2", "--seeds", "1", "--output", "runs", "--num-gpus", "0"]
    main(options)
    lines = capsys.readouterr().out.splitlines()
    order = [line.split(":")[0] for line in lines if ": done, average" in line]
    assert order[0] == "small/seed0" and len(order) == 3
    table = lines[-8:]
    assert table[0].split() == ["percent", "TAU", "0", "TAU", "2"]
    assert table[2].startswith("average")
    runs = {run.folder.as_posix(): run for run in find_runs(["runs"])}
    assert list(runs) == [
        *("runs/scaled/TAU=0/seed0", "runs/scaled/TAU=2/seed0", "runs/small/seed0")
    ]
    # Without strength the first stage is left as it is.
    unchanged, _, first = runs.values()
    assert unchanged.metrics() == first.metrics()
    monkeypatch.setattr(sys, "executable", "there is nothing left to run")
    main(options)
    assert capsys.readouterr().out.splitlines()[-8:] == table
