# SPDX-License-Identifier: Apache-2.0
"""longtail analyze on runs that were written by hand: values, tables, files and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail.commands import analyze
from longtail.config import tables
from tests.finished_runs import GROUPS, head, provenance, write_confusion, write_report, write_run

# Rows: ground truth, of 100, 40 and 4 pixels.
CONFUSION = [[90, 6, 4], [10, 30, 0], [3, 0, 1]]


def run(output, *arguments):
    analyze.main([*map(str, arguments), "--output", str(output)])
    return json.loads((Path(output) / f"{arguments[0]}.json").read_text())


def failure(tmp_path, *arguments):
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        run(output, *arguments)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message and not output.exists()
    return message


def write_images(folder, acc, *, dataset="images_test", counts=(50, 30, 5), fingerprint="f" * 64):
    """A run of image classification, each class a group."""
    names, groups = ("a", "b", "c"), ("many", "medium", "few")
    rows = [
        {"index": i, "name": n, "group": g, "train_images": c, "acc": a}
        for i, (n, g, c, a) in enumerate(zip(names, groups, counts, acc, strict=True))
    ]
    report = {
        **head("classification", dataset, fingerprint),
        **dict.fromkeys(("mean_acc", "top1", "top5"), float(np.mean(acc))),
        "groups": {g: {"mean_acc": a, "num_classes": 1} for g, a in zip(groups, acc, strict=True)},
        "classes": rows,
        "provenance": provenance(0, {}, 10, str(folder)),
    }
    place = folder / "inference" / dataset
    write_report(place / "classification_evaluation.json", report)
    write_confusion(place, CONFUSION)
    return folder


@pytest.fixture
def baseline(tmp_path):
    return write_run(tmp_path / "baseline", {}, [90.0, 40.0, 10.0], confusion=CONFUSION)


@pytest.fixture
def other(tmp_path):
    return write_run(tmp_path / "other", {}, [88.0, 40.0, 25.5])


def test_gain(baseline, other, tmp_path, capsys):
    values = run(tmp_path, "gain", baseline, other, "--sort-by", "regions")
    assert values["sorted_by"] == "regions"
    assert [row["name"] for row in values["classes"]] == ["road", "tree", "pole"]
    assert [row["regions"] for row in values["classes"]] == [9, 5, 2]
    assert [row["IoU"]["gain"] for row in values["classes"]] == [-2, 0, 15.5]
    assert values["classes"][2]["Acc"] == {"before": 11, "after": 26.5, "gain": 15.5}
    assert values["summary"]["IoU"] == {
        **{"classes": 3, "rose": 1, "fell": 1, "same": 1, "mean": 4.5},
        "groups": {"head": -2, "body": 0, "tail": 15.5},
    }
    assert [run["name"] for run in values["runs"]] == ["baseline", "other"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["IoU", "+4.50", "-2.00", "+0.00", "+15.50", "1", "1", "1"] in lines
    assert ["pole", "+15.50", "2", "3"] in lines and ["road", "-2.00", "9", "1"] in lines
    assert Image.open(tmp_path / "gain.png").size[0] > 500
    assert "other - baseline" in (tmp_path / "gain.svg").read_text(encoding="utf-8")


def test_gain_is_sorted_by_the_training_counts_of_its_kind(tmp_path):
    folders = [
        write_images(tmp_path / name, (70.0, 50.0, 20.0), counts=(5, 50, 30)) for name in "xy"
    ]
    values = run(tmp_path, "gain", *folders)
    assert values["sorted_by"] == "images"
    assert [row["name"] for row in values["classes"]] == ["b", "c", "a"]


def test_nothing_has_changed_and_nothing_is_confused(tmp_path, capsys):
    folder = write_run(tmp_path / "run", {}, [90.0, 40.0, 10.0], confusion=np.diag([5, 4, 3]))
    assert run(tmp_path, "gain", folder, folder)["summary"]["IoU"]["same"] == 3
    assert run(tmp_path, "confusion", folder)["pairs"] == []
    out = capsys.readouterr().out
    assert "no class has changed" in out and "no class is confused" in out


def test_correlation(baseline, other, tmp_path, capsys):
    values = run(tmp_path, "correlation", baseline, other)
    found = {(c["run"], c["metric"], c["frequency"]): c for c in values["coefficients"]}
    assert len(found) == 2 * 2 * 2
    expected = 100 * np.corrcoef([91, 41, 11], [900, 90, 10])[0, 1]
    assert found["baseline", "Acc", "pixels"]["pearson"] == pytest.approx(expected)
    assert found["baseline", "Acc", "pixels"]["spearman"] == pytest.approx(100)
    expected = 100 * np.corrcoef([88, 40, 25.5], [9, 5, 2])[0, 1]
    assert found["other", "IoU", "regions"]["pearson"] == pytest.approx(expected)
    assert values["classes"][2]["other"] == {"IoU": 25.5, "Acc": 26.5}
    assert "Spearman %" in capsys.readouterr().out


def test_correlation_of_image_classification(tmp_path):
    folder = write_images(tmp_path / "run", (70.0, 20.0, 40.0))
    [found] = run(tmp_path, "correlation", folder)["coefficients"]
    assert (found["metric"], found["frequency"]) == ("acc", "images")
    assert found["pearson"] == pytest.approx(100 * np.corrcoef([70, 20, 40], [50, 30, 5])[0, 1])
    assert found["spearman"] == pytest.approx(50)


def test_correlation_of_published_results(tmp_path, capsys):
    """Accuracy against pixels and regions, as the issue's oracle."""
    values = run(tmp_path, "correlation", "--published")
    found = {
        (c["run"], c["frequency"]): round(c["pearson"], 1)
        for c in values["coefficients"]
        if c["metric"] == "Acc"
    }
    assert found == {
        **{("R-50", "pixels"): 41.9, ("R-50", "regions"): 53.0},
        **{("R-101", "pixels"): 40.0, ("R-101", "regions"): 49.8},
        **{("S-101", "pixels"): 32.9, ("S-101", "regions"): 35.2},
    }
    assert "https://github.com/Megvii-BaseDetection" in capsys.readouterr().out


def test_confusion(baseline, tmp_path, capsys):
    values = run(tmp_path, "confusion", baseline, "--pairs", 2)
    assert values["pairs"] == [
        {"truth": "pole", "predicted": "road", "count": 3, "percent": 75},
        {"truth": "tree", "predicted": "road", "count": 10, "percent": 25},
    ]
    entries = zip(
        *(values["confusion"][key] for key in ("truth", "predicted", "count")), strict=True
    )
    found = np.zeros((3, 3), int)
    for truth, predicted, count in entries:
        found[truth, predicted] += count
    assert found.tolist() == CONFUSION
    assert values["groups"]["names"] == list(GROUPS)
    assert values["groups"]["right"] == [90, 75, 25]
    assert values["groups"]["predicted"] == [[0, 6, 4], [25, 0, 0], [75, 0, 0]]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tail", "25.00", "75.00", "0.00", "0.00"] in lines
    folder = write_images(tmp_path / "images", (70.0, 20.0, 40.0))
    assert run(tmp_path, "confusion", folder)["groups"]["names"] == ["many", "medium", "few"]


def test_bound(tmp_path, capsys):
    baseline = write_images(tmp_path / "baseline", (70.0, 20.0, 5.0))
    write_images(baseline, (71.0, 21.0, 7.0), dataset="images_val", fingerprint="v" * 64)
    # The bound's training set is balanced, and it was tested on val alone.
    bound = write_images(
        tmp_path / "bound",
        (75.0, 60.0, 66.0),
        dataset="images_val",
        counts=(90, 90, 90),
        fingerprint="v" * 64,
    )
    values = run(tmp_path, "bound", baseline, bound, bound)
    assert values["dataset"] == "images_val"
    assert [row["images"] for row in values["classes"]] == [50, 30, 5]
    label = f"bound ({bound})"
    assert values["means"][label] == {"average": 67, "many": 75, "medium": 60, "few": 66}
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any(line[-5:] == ["33.00", "71.00", "21.00", "7.00", "34.00"] for line in lines)


def test_frequencies(tmp_path, capsys):
    """Figure 5b prints the whole numbers."""
    names = ("ade20k_sem_seg_train", "coco_stuff_164k_sem_seg_train")
    values = run(tmp_path, "frequencies", *names)["data_sets"]
    for name, row in zip(
        names, tables.read_tables()["region_rebalance_figure_5b"].rows, strict=True
    ):
        factors = values[name]["imbalance_factors"]
        assert int(factors["pixels"]) == row.metrics["PIF"]
        assert int(factors["regions"]) == row.metrics["RIF"]
    assert len(values[names[1]]["classes"]) == 171
    assert "827.5" in capsys.readouterr().out


def test_iou(baseline, tmp_path, capsys):
    values = run(tmp_path, "iou", baseline)
    # FP/TP: 13/90, 6/30, 4/1.
    ratios = [row["ratio"] for row in values["classes"]["baseline"]]
    assert ratios == pytest.approx([13 / 90, 0.2, 4])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["baseline", "3", "0.20", "2", "0", "1"] in lines
    curves = {curve["ratio"]: curve["iou"] for curve in run(tmp_path, "iou")["curves"]}
    assert {0, 1, 3} <= set(curves) and curves[1][-1] == 0.5 and curves[3][50] == pytest.approx(0.2)


def test_bad_input_is_said_in_one_line(baseline, other, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert str(nowhere) in failure(tmp_path, "gain", baseline, nowhere)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} has no evaluation" in failure(tmp_path, "correlation", empty)
    stranger = write_run(tmp_path / "stranger", {}, fingerprint="0" * 64)
    message = failure(tmp_path, "gain", baseline, stranger)
    assert "baseline" in message and "stranger" in message and "other images" in message
    renamed = write_run(tmp_path / "renamed", {}, names=("road", "tree", "post"))
    assert "other classes" in failure(tmp_path, "correlation", baseline, renamed)
    message = failure(tmp_path, "gain", baseline, other, "--sort-by", "instances")
    assert "instances" in message and "pixels, regions" in message
    assert "toy_val" in failure(tmp_path, "confusion", baseline, "--dataset", "toy_test")
    assert "--pairs" in failure(tmp_path, "confusion", baseline, "--pairs", 0)
    assert "--published" in failure(tmp_path, "correlation")
    assert "--published" in failure(tmp_path, "correlation", baseline, "--published")
    assert "nobody_knows" in failure(tmp_path, "frequencies", "nobody_knows")
    images = write_images(tmp_path / "images", (70.0, 20.0, 40.0))
    assert "classification" in failure(tmp_path, "iou", images)
    damaged = write_run(tmp_path / "damaged", {})
    (damaged / "inference" / "toy_val" / "confusion_matrix.npz").write_bytes(b"PK")
    assert "confusion_matrix.npz cannot be read" in failure(tmp_path, "confusion", damaged)
    taken = tmp_path / "taken"
    taken.write_text("a file", encoding="utf-8")
    with pytest.raises(SystemExit, match=f"--output {taken} is a file"):
        run(taken, "gain", baseline, other)


def test_a_run_without_training_counts(tmp_path):
    """An older list of classes, or a test set whose training set nobody has."""
    folder = write_run(tmp_path / "run", {}, [90.0, 40.0, 10.0], confusion=CONFUSION)
    path = folder / "inference" / "toy_val" / "sem_seg_evaluation.json"
    report = json.loads(path.read_text())
    for row in report["classes"]:
        del row["train_pixels"], row["train_images"]
        row["group"] = None
    path.write_text(json.dumps(report))
    assert "no training counts of images" in failure(tmp_path, "correlation", folder)
    # Sorted by the ground truth of the test set instead.
    assert len(run(tmp_path / "out", "confusion", folder, "--pairs", 1)["pairs"]) == 1
