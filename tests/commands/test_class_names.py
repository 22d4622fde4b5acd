# SPDX-License-Identifier: Apache-2.0
"""A data set whose file lists the classes in another order than the training set's, end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.commands.train import main
from tests.commands import perfect_detector
from tests.messages import assert_names
from tests.tiny_detection import DETECTOR, write_rectangles

SCRIPT = Path(__file__).with_name("perfect_detector.py")
CUP_BOLT_LEAF = ["cup", "bolt", "leaf"]


def write_set(folder, names, seed):
    """Rectangles of cup, bolt and leaf; the file lists the categories as in ``names``."""
    path = write_rectangles(folder, 4, seed)
    content = json.loads(path.read_text())
    # The ids 1, 2 and 3 were those of cup, bolt and leaf.
    new_id = {k + 1: names.index(name) + 1 for k, name in enumerate(CUP_BOLT_LEAF) if name in names}
    new_id |= {k: k for k in (1, 2, 3) if k not in new_id}
    for category, name in zip(content["categories"], names, strict=True):
        category.update(name=name, synonyms=[name])
    for item in content["annotations"]:
        item["category_id"] = new_id[item["category_id"]]
    for image in content["images"]:
        image["neg_category_ids"] = [new_id[number] for number in image["neg_category_ids"]]
    path.write_text(json.dumps(content))


def arguments(tmp_path, val_names, carried) -> list[str]:
    """Write data, config and weights; returns what ``longtail train`` evaluates them with."""
    write_set(tmp_path / "train", CUP_BOLT_LEAF, 0)
    write_set(tmp_path / "val", val_names, 1)
    (tmp_path / "config.yaml").write_text(DETECTOR)
    weights = tmp_path / "weights.pth"
    torch.save({"model": {"trained": torch.zeros(1)}, **carried}, weights)
    return [
        *("--eval-only", "--config-file", str(tmp_path / "config.yaml")),
        *("MODEL.META_ARCHITECTURE", "PerfectDetector", "MODEL.WEIGHTS", str(weights)),
        *("DATASETS.TRAIN", "('train',)", "DATASETS.TEST", "('val',)"),
        *("OUTPUT_DIR", str(tmp_path / "output")),
    ]


@pytest.fixture
def registered(tmp_path, kept_logging):
    """The data sets of the program, in this process."""
    perfect_detector.register(tmp_path)
    yield
    for name in ("train", "val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_perfect_detector_is_perfect_whatever_the_order(tmp_path):
    options = arguments(tmp_path, ["bolt", "leaf", "cup"], {"class_names": CUP_BOLT_LEAF})
    command = [sys.executable, str(SCRIPT), str(tmp_path), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "output/inference/val/lvis_evaluation.json").read_text())
    assert report["tasks"]["bbox"]["AP"] == report["tasks"]["segm"]["AP"] == pytest.approx(100)


def test_another_class_is_refused_in_one_line(registered, tmp_path):
    options = arguments(tmp_path, ["cup", "nut", "leaf"], {"class_names": CUP_BOLT_LEAF})
    with pytest.raises(SystemExit) as info:
        main(options)
    line = info.value.code
    assert "\n" not in line
    assert_names(line, "error:", "val", "weights.pth", "class 1", "'nut'", "'bolt'")
    assert not (tmp_path / "output/inference").exists()
