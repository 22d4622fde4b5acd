# SPDX-License-Identifier: Apache-2.0
"""The quick start's tables, pictures and pages, after training runs that are finished already."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from region_rebalance.commands import quickstart

from longtail.analysis.runs import read_run
from longtail.config import load_config
from longtail.data.datasets.digit_scenes import register_digit_scenes
from longtail.data.formats.generated import digit_folders
from longtail.utils.datasets_root import datasets_root
from tests.finished_runs import GROUPS, write_classification, write_confusion, write_run

TEST_SET = "digit_scenes_sem_seg_test"


def write_scenes(datasets):
    """Two test scenes of 8 x 8 pixels: all ground, and all of the digit 2, which is in the tail."""
    base = datasets / "digit_scenes"
    for folder in digit_folders(base, "test"):
        folder.mkdir(parents=True)
    for index, label in enumerate((10, 2)):
        images, labels = digit_folders(base, "test")
        Image.new("RGB", (8, 8)).save(images / f"scene{index}.png")
        Image.new("L", (8, 8), label).save(labels / f"scene{index}.png")
    return base


def write_predictions(folder, base, right):
    """Ground everywhere, but for ``right`` pixels of the second scene."""
    entries = []
    for index in range(2):
        number = right if index else 0
        for label in (2, 10):
            mask = np.zeros(64, np.uint8)
            mask[:number] = label == 2
            mask[number:] = label == 10
            rle = mask_util.encode(np.asfortranarray(mask.reshape(8, 8)))
            name = str(digit_folders(base, "test")[0] / f"scene{index}.png")
            entries.append(
                {
                    "file_name": name,
                    "category_id": label,
                    "segmentation": {"size": [8, 8], "counts": rle["counts"].decode()},
                }
            )
    place = folder / "inference" / TEST_SET / quickstart.PREDICTIONS
    place.write_text(json.dumps(entries))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """The folder of a quick start whose runs are all there."""
    base = write_scenes(tmp_path / "datasets")
    register_digit_scenes(str(tmp_path / "datasets"))
    images, pixels = {}, {}
    for index, method in enumerate(quickstart.IMAGES):
        run = write_classification(
            tmp_path / f"images{index}",
            80.0 + index,
            dataset="digits_lt_test",
            config={},
            iteration=10,
        )
        write_confusion(run / "inference/digits_lt_test", [[8, 2], [1, 9]])
        report = run / "inference/digits_lt_test/classification_evaluation.json"
        content = json.loads(report.read_text())
        content["groups"]["medium"] = {"mean_acc": 80.0 + index, "num_classes": 1}
        report.write_text(json.dumps(content))
        images[method] = read_run(run)
    for index, method in enumerate(quickstart.PIXELS):
        run = write_run(
            tmp_path / f"pixels{index}",
            {"mIoU": 40 + index},
            iou=(90.0, 40.0, 10.0 + index),
            dataset=TEST_SET,
        )
        write_predictions(run, base, index * 16)
        pixels[method] = read_run(run)
    assert GROUPS[2] == "tail"
    monkeypatch.setattr(quickstart, "prepare", lambda _: None)
    monkeypatch.setattr(quickstart, "train", lambda _: (images, pixels))
    yield tmp_path
    register_digit_scenes(datasets_root())


def test_it_ends_with_numbers_pictures_and_pages(finished, capsys):
    quickstart.main(["--output", str(finished)])
    printed = capsys.readouterr().out
    text = (finished / "comparison.txt").read_text()
    assert text in printed
    # Accuracy of the tail is one more than its IoU.
    rare = next(line for line in text.splitlines() if line.startswith("Scenes: "))
    assert [word for word in rare.split() if word[0].isdigit()] == ["11.0", "12.0", "13.0", "14.0"]
    assert "from 79.0 to 80.0 % right, all from 80.0 to 81.0 %" in text
    assert "benchmarks/README.md" in text
    pictures = {path.stem for path in (finished / "pictures").iterdir()}
    assert pictures >= {"accuracy_of_classes", "scene_1_recovered", "scene_3_lost"}
    page = (finished / "report.html").read_text()
    assert 'alt="scene_1_recovered"' in page and 'alt="accuracy_of_classes"' in page
    assert (
        "Region Rebalance" in page and "DisAlign" in (finished / "report_images.html").read_text()
    )


def test_the_scene_with_most_of_the_tail_recovered_is_first(finished, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        "longtail.visualization.recovered.enlarged_picture",
        lambda record, task, predictors: np.full((4, 4, 3), int(record["file_name"][-5]), np.uint8),
    )
    monkeypatch.setattr(
        "longtail.visualization.writing.write_pictures",
        lambda folder, pictures: shown.update({n: int(p[0, 0, 0]) for n, p in pictures}),
    )
    runs = quickstart.train(finished)[1]
    quickstart.draw_scenes(finished, finished / "datasets", runs)
    assert shown == {"scene_1_recovered": 1, "scene_2_recovered": 0, "scene_3_lost": 0}
    assert len(DatasetCatalog.get(TEST_SET)) == 2


def test_what_it_trains():
    """Each method on the same data; the second stages start from the first ones."""
    for configs in (quickstart.IMAGES, quickstart.PIXELS):
        cfgs = {method: load_config(config) for method, config in configs.items()}
        assert len({(str(c.DATASETS.TRAIN), str(c.DATASETS.TEST)) for c in cfgs.values()}) == 1
        starts = {"DisAlign": "baseline", "RR + DisAlign": "Region Rebalance"}
        for second, first in starts.items():
            if second in cfgs:
                weights = cfgs[second].MODEL.WEIGHTS
                assert weights == cfgs[first].OUTPUT_DIR + "/model_final.pth"


def test_runs_are_planned_and_data_is_that_of_the_folder(tmp_path, monkeypatch):
    seen = {}

    def run_rows(rows, arguments, *, output, options, datasets):
        rows = list(rows)
        seen.update(configs=[row.config for row in rows], datasets=datasets(0), output=output)
        return None, {row: [row.config] for row in rows}

    monkeypatch.setattr("longtail.jobs.run.run_rows", run_rows)
    images, pixels = quickstart.train(tmp_path)
    assert images == quickstart.IMAGES and pixels == quickstart.PIXELS
    assert seen["datasets"] == tmp_path / "datasets" and seen["output"] == tmp_path / "runs"
    assert sorted(seen["configs"]) == sorted([*images.values(), *pixels.values()])
