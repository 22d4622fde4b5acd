# SPDX-License-Identifier: Apache-2.0
"""template/, a package beside longtail: installed by pip, then used outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, pip

# It installs a package, and trains with it.
pytestmark = pytest.mark.slow

TINY = [
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.PRETRAINED", ""),
    *("MODEL.SEM_SEG_HEAD.NAME", "FCNHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8"),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4", "INPUT.CROP.SIZE", "[64,64]"),
    *("INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("TEST.EXPECTED_RESULTS", "[]"),
]
LOSS = ["MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "label_aware_smoothing"]
SIZES = ["--classes", "4", "--size", "64", "--num-train", "6", "--num-val", "8", "--workers", "1"]
LAWS = ["--region-imbalance", "2", "--pixel-imbalance", "3"]
KEY = "MODEL.LABEL_AWARE_SMOOTHING"
# One process for the other commands, which imports torch once.
PROGRAM = """
import json, sys
from longtail.commands import main
for command in json.load(sys.stdin):
    print(f"COMMAND {command[0]}", flush=True)
    main(command)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder outside the checkout: a copy of the template, and where pip has installed it."""
    folder = tmp_path_factory.mktemp("template")
    # A build leaves files where it runs.
    shutil.copytree(ROOT / "template", folder / "source")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--target", folder / "packages")
    pip("install", *options, folder / "source")
    return folder


def run(folder: Path, *command: str, given: str = "") -> str:
    """Standard output of a program that finds what was installed, and has to succeed."""
    own = {"PYTHONPATH": str(folder / "packages"), "LONGTAIL_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *command],
        input=given,
        cwd=folder,
        env={**os.environ, **own, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def printed(folder) -> dict[str, str]:
    """What each command has printed."""
    config = "quickstart/deeplabv3plus_lite0.yaml"
    commands = [
        ["methods", "pixels"],
        ["info", config, f"{KEY}.HEAD", "0.3", *TINY],
        ["train", "--config-file", config, *TINY, *LOSS],
    ]
    # Before, in a process of its own: how many classes there are is read at the start.
    run(folder, "-m", "longtail", "generate", *SIZES, *LAWS)
    parts = run(folder, "-c", PROGRAM, given=json.dumps(commands)).split("COMMAND ")[1:]
    return dict(part.split("\n", 1) for part in parts)


def test_what_is_installed(folder):
    """The package and its metadata, and no tests."""
    names = {path.name for path in (folder / "packages").iterdir()}
    assert names == {"label_aware_smoothing", "label_aware_smoothing-0.1.0.dist-info"}


def test_its_loss_is_listed_without_an_import(printed):
    (line,) = [s for s in printed["methods"].splitlines() if "label_aware_smoothing " in s]
    assert line.split()[:2] == ["loss", "label_aware_smoothing"]


def test_its_keys_are_known(printed):
    assert f"  {KEY}.HEAD: 0.3" in printed["info"].splitlines()


def test_a_training_with_its_loss(printed, folder):
    """Two iterations. The loss starts at ln 4, as that of any labels that add up to one."""
    output = folder / "output" / "quickstart" / "baseline"
    assert (output / "model_final.pth").is_file() and "mIoU" in printed["train"]
    lines = [json.loads(s) for s in (output / "metrics.json").read_text().splitlines()]
    (loss,) = {line["loss_sem_seg"] for line in lines if "loss_sem_seg" in line}
    assert 1.0 < loss < 1.8


def test_its_own_tests_pass(folder):
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--basetemp", str(folder / "own")]
    text = run(folder, "-m", "pytest", *options, str(folder / "source" / "tests"))
    assert "7 passed" in text
