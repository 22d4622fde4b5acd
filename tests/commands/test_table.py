# SPDX-License-Identifier: Apache-2.0
"""longtail table, as users call it, and the scripts that print all tables of a data set."""

import ast
import os
import subprocess
import sys

import pytest

import longtail.commands
from benchmarks.paper_tables import tables_on
from longtail.commands.table import main
from longtail.config.tables import read_tables
from tests.config.common import ROOT
from tests.finished_runs import recorded, write_run
from tests.messages import assert_names

CONFIG = "CamVid/deeplabv3plus_lite0_rr.yaml"
VAL = "camvid_sem_seg_val"
SCRIPTS = ("ade20k", "lvis", "coco_stuff", "imagenet_lt", "places_lt", "inaturalist")


@pytest.fixture
def run(tmp_path):
    """A finished run, of CamVid with Region Rebalance."""
    config = recorded(CONFIG, "SEED", 7)
    return write_run(tmp_path / "mine", {"mIoU": 53.1}, config=config, dataset=VAL, iteration=400)


def error_of(*arguments):
    with pytest.raises(SystemExit) as info:
        main([str(argument) for argument in arguments])
    return info.value.code


def test_prints_a_table(run, capfd):
    """What a process of its own prints, test_a_script sees."""
    longtail.commands.main(["table", "camvid", "--runs", str(run)])
    printed = capfd.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("DeepLabV3+, Lite0, RR "))
    assert lines[start].split()[3:7] == ["recorded", "52.1", "±", "0.3"]
    assert lines[start + 1].split()[:2] == ["here", "53.1"]
    assert lines[start + 1].endswith("  1: seed 7")
    assert lines[start + 2].split()[:2] == ["difference", "+1.0"]


def test_lists_the_tables(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[2:]]
    assert names == [table.short for table in read_tables().values()]
    assert {"rr-table3", "disalign-table7", "disalign-figure5", "disalign-release-lvis"} <= {*names}
    [line] = [line for line in lines if line.startswith("disalign-table7 ")]
    assert line.split(maxsplit=1)[1].split("  ")[0] == "DisAlign, Table 7"


def test_the_default_is_the_folder_output(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["camvid"])
    assert "53.1" not in capsys.readouterr().out
    (tmp_path / "output").mkdir()
    main(["camvid"])
    run.rename(tmp_path / "output" / "mine")
    main(["camvid"])
    assert "53.1" in capsys.readouterr().out


def test_writes_a_file(run, tmp_path, capsys):
    path = tmp_path / "new" / "table.csv"
    other = recorded(CONFIG, "SOLVER.MAX_ITER", 100)
    write_run(tmp_path / "other", {}, config=other, dataset=VAL, iteration=100)
    main(["camvid", "--runs", str(tmp_path), "--format", "csv", "--output", str(path)])
    assert f"{CONFIG},mIoU,52.1,53.1,,1.0,1,7\n" in path.read_text()
    out, err = capsys.readouterr()
    assert out == f"written: {path}\n"
    assert_names(err.strip(), str(tmp_path / "other"), "1 key", "SOLVER.MAX_ITER 100", CONFIG)


def test_bad_input_is_said_in_one_line(run, tmp_path):
    assert_names(error_of("rr-tabel3"), "'rr-tabel3'", "rr-table3", "longtail table")
    assert_names(error_of("camvid", "--runs", tmp_path / "gone"), str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    assert_names(error_of("camvid", "--runs", tmp_path / "empty"), str(tmp_path / "empty"))
    assert_names(error_of("camvid", "--output", tmp_path), "--output", str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert_names(error_of("camvid", "--output", tmp_path / "pipe"), str(tmp_path / "pipe"))
    assert (tmp_path / "pipe").is_fifo()
    report = run / "inference" / VAL / "sem_seg_evaluation.json"
    report.write_text(report.read_text()[:200])
    assert_names(error_of("camvid", "--runs", run), str(report), "--eval-only")


def folders_of(script):
    """What a script gives to the shared function, beside its docstring."""
    tree = ast.parse((ROOT / "benchmarks" / f"{script}.py").read_text(encoding="utf-8"))
    [call] = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.func.id == "main"]
    return [argument.value for argument in call.args[1:]]


def test_the_scripts_print_every_table_of_the_papers():
    found = {table.name for script in SCRIPTS for table in tables_on(*folders_of(script))}
    printed = {
        table.name
        for table in read_tables().values()
        # CIFAR-100-LT, which others have published, is trained by benchmarks/real_data.py.
        if table.paper.startswith(("Region Rebalance", "DisAlign"))
        and any(row.config for row in table.rows)
    }
    assert found == printed
    lvis = {table.short for table in tables_on(*folders_of("lvis"))}
    assert lvis == {
        *(f"disalign-table{number}" for number in (7, 8, 9, 17, 18)),
        *("disalign-release-lvis", "disalign-release-lvis-runs"),
    }


def test_a_script(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "places_lt.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    titles = [line for line in done.stdout.splitlines() if line.startswith("DisAlign, Table ")]
    assert [title.split(" (")[0] for title in titles] == ["DisAlign, Table 4", "DisAlign, Table 14"]
