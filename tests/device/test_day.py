# SPDX-License-Identifier: Apache-2.0
"""The steps of a GPU's day: limits, what is kept of a step that fails, and some of them, tiny."""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

OTHERS = (
    *("common", "branch_cost", "generated_lvis", "sem_seg_evaluator", "lvis_evaluator"),
    *("mmseg_peers", "throughput", "disalign_stage2"),
)
# Says something, saves, and then does what its name says.
STEP = """\
import json, os, subprocess, sys, time
from pathlib import Path
name, output = sys.argv[1], Path(sys.argv[sys.argv.index("--output") + 1])
print("said by", name, *sys.argv[2:], flush=True)
output.write_text(json.dumps({"name": name, "nested": {"value": 1.5}}))
if name == "tests":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path("child").write_text(str(child.pid))
    time.sleep(60)
sys.exit(name == "disalign")
"""


@pytest.fixture
def load(monkeypatch):
    """A function that imports a script, which finds the others as if it were run."""

    def get(name: str) -> ModuleType:
        for other in OTHERS:
            module = importlib.import_module(f"benchmarks.{other}")
            monkeypatch.setitem(sys.modules, other, module)
        return importlib.import_module(f"benchmarks.device.{name}")

    return get


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_step_that_hangs_or_fails_costs_its_time_alone(load, tmp_path, monkeypatch):
    day = load("day")
    script = tmp_path / "steps.py"
    script.write_text(STEP)
    monkeypatch.setattr(day, "STEPS", script)
    monkeypatch.setattr(day, "LIMITS", {**day.LIMITS, "tests": 3.0})
    monkeypatch.setattr(day, "SOON", 0.5)
    monkeypatch.setattr(sys, "argv", ["day.py"])
    monkeypatch.chdir(tmp_path)
    names = ["tests", "disalign", "throughput upernet_swin_T_160k"]
    options = day.parse_arguments(
        ["--output", str(tmp_path / "out"), "--seconds", "40", "--steps", *names]
    )
    found = day.run(options)
    assert [found[name]["state"] for name in names] == ["stopped after 3 s", "failed", "done"]
    # What was saved before is kept, and nothing goes on.
    assert found["tests"]["figures"]["nested"] == {"value": 1.5}
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(child)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "said by throughput upernet_swin_T_160k --output" in log and "--tiny" not in log
    written = json.loads((tmp_path / "out" / "device.json").read_text())["figures"]
    assert written == {"tiny": False, "steps": found}
    assert ("disalign / figures / nested / value", 1.5) in list(day.lines(found))


def test_without_time_nothing_is_begun(load, tmp_path, monkeypatch):
    day = load("day")
    monkeypatch.setattr(day, "run_step", lambda *_: pytest.fail("a step was begun"))
    options = day.parse_arguments(["--output", str(tmp_path), "--seconds", "4"])
    assert {step["state"] for step in day.run(options).values()} == {"no time was left"}


def test_the_plan_fits_and_names_what_there_is(load):
    day, steps = load("day"), load("steps")
    assert sum(day.LIMITS.values()) <= 480
    for name in day.LIMITS:
        step, *config = name.split()
        assert step in steps.STEPS and all(model in steps.SIZES for model in config)
        assert all((steps.ROOT / f"configs/ADE20K/{model}.yaml").is_file() for model in config)
    assert {c for name in day.LIMITS for c in name.split()[1:]} == set(steps.SIZES)


def test_outcomes_of_tests(load, tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="x"/>'
        '<testcase classname="a" name="y"><skipped message="no GPU"/></testcase>'
        '<testcase classname="a" name="z"><failure message="1 is not 2">long</failure></testcase>'
        '<testcase classname="b" name="w"><error message="gone"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert load("steps").counted(report) == {
        **{"passed": 1, "skipped": 1, "failed": 2},
        "failures": {"a::z": "1 is not 2", "b::w": "gone"},
    }


def test_speeds_by_hand(load):
    found = {
        "float32": [0.5, 0.4, 9.0],
        "bfloat16": [0.25],
        "mmsegmentation": [1.0],
        "region branch": [0.01],
    }
    figures = load("steps").speeds(found, 4)
    assert figures["images a second"] == {"float32": 8, "bfloat16": 16, "mmsegmentation": 4}
    assert figures["times float32's throughput"]["bfloat16"] == 2
    assert figures["region branch, percent of a step"] == pytest.approx(2)
    assert figures["the fastest, times mmsegmentation's throughput"] == 4


@pytest.mark.parametrize("name", ["evaluation", "loader"])
def test_tiny_steps(load, name, monkeypatch):
    steps, saved = load("steps"), []
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    monkeypatch.setitem(sys.modules, "steps", steps)
    steps.STEPS[name](lambda figures: saved.append(dict(figures)), True, "")
    assert len(saved) > 0
    numbers = [v for _, v in load("day").lines(saved[-1])]
    assert numbers and all(number >= 0 for number in numbers)
    if name == "evaluation":
        assert saved[-1]["LVIS, processing an image"]["times faster"] > 0
        assert set(saved[0]) == {"semantic, smooth"}
