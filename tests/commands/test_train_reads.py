# SPDX-License-Identifier: Apache-2.0
"""How often the start of a training reads its annotations, as a user starts it."""

import os
import subprocess
import sys

import pytest

from tests.tiny_detection import DETECTOR, write_rectangles

# Registers the data set, as a user's module does, and notes each JSON file that is parsed.
MODULE = """\
import json
from longtail.data.datasets.lvis import register_lvis_instances

META = {"thing_classes": ["red", "green", "blue"]}
register_lvis_instances("read_once_train", "FOLDER/lvis.json", "FOLDER", metadata=META)
load = json.load


def noted(file, *args, **kwargs):
    with open("parsed.txt", "a") as notes:
        notes.write(f"{file.name}\\n")
    return load(file, *args, **kwargs)


json.load = noted
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with data, a config and a module, in which the command runs."""
    write_rectangles(tmp_path / "data", 4)
    (tmp_path / "noting.py").write_text(MODULE.replace("FOLDER", str(tmp_path / "data")))
    (tmp_path / "detector.yaml").write_text(DETECTOR)
    return tmp_path


def start(folder, *options):
    """Run ``longtail ...`` there; gives how often the annotations were parsed."""
    notes = folder / "parsed.txt"
    notes.unlink(missing_ok=True)
    environment = {**os.environ, "LONGTAIL_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "longtail", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parsed = notes.read_text().splitlines() if notes.exists() else []
    return [line for line in parsed if line == str(folder / "data" / "lvis.json")]


@pytest.mark.slow
def test_the_annotations_are_parsed_once_a_start(folder):
    train = ["train", "--config-file", "detector.yaml", "--import", "noting", "--overwrite"]
    # A loss by the class counts: statistics, and the loader, need the annotations.
    options = ["MODEL.ROI_BOX_HEAD.CLASS_LOSS", "balanced_softmax", "SOLVER.MAX_ITER", "1"]
    options += ["DATASETS.TRAIN", "('read_once_train',)", "DATASETS.TEST", "()"]
    assert len(start(folder, *train, *options)) == 1
    assert len(list((folder / "cache" / "class_stats").iterdir())) == 1
    assert len(start(folder, *train, *options)) == 1
