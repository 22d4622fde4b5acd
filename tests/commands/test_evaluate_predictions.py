# SPDX-License-Identifier: Apache-2.0
"""longtail evaluate-predictions: what a model's own evaluation said of the predictions it saved."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.commands import evaluate_predictions
from longtail.data.statistics.counting import load_records
from longtail.evaluation.lvis.precision import MODES
from tests.commands.pictured import pictured
from tests.messages import assert_names


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    with pictured("objects", tmp_path_factory.mktemp("objects")) as made:
        yield made


@pytest.fixture(scope="module")
def sem_seg(tmp_path_factory):
    with pictured("sem_seg", tmp_path_factory.mktemp("sem_seg")) as made:
        yield made


def run(made, path, output, *arguments):
    given = ["--dataset", made.dataset, "--predictions", path, "--output", output, *arguments]
    evaluate_predictions.main([str(argument) for argument in given])


def fail(made, path, output, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(made, path, output, *arguments)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    return message


def report(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["provenance"]
    return content


def same(first, second):
    """Equal but for the rounding of boxes, which are corners in a model and sides in a file."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            same(first[key], second[key])
    elif isinstance(first, list):
        for pair in zip(first, second, strict=True):
            same(*pair)
    elif isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-3)
    else:
        assert first == second


def test_modes_of_the_parser():
    assert evaluate_predictions.MODES == MODES


def test_detections(objects, tmp_path, capsys):
    run(objects, objects.saved, tmp_path)
    expected = report(objects.saved.with_name("lvis_evaluation.json"))
    same(report(tmp_path / "lvis_evaluation.json"), expected)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("segm ")]
    assert "AP50" in printed[0]


def perfect(made):
    """The annotations as detections, in LVIS's format."""
    content = json.loads(Path(MetadataCatalog.get(made.dataset).json_file).read_text())
    return [
        {
            **{key: item[key] for key in ("image_id", "category_id", "bbox", "segmentation")},
            "score": 0.5,
        }
        for item in content["annotations"]
    ]


def test_perfect_detections_in_all_modes(objects, tmp_path):
    path = tmp_path / "perfect.json"
    entries = perfect(objects)
    path.write_text(json.dumps(entries), encoding="utf-8")
    run(objects, path, tmp_path / "all", "--modes", *MODES)
    metrics = report(tmp_path / "all" / "lvis_evaluation.json")["tasks"]
    for task in ("bbox", "segm"):
        for key in ("AP", "AP_fixed", "AP_pool", "APr"):
            assert metrics[task][key] == pytest.approx(100)
    # An image without detections counts as one.
    first = entries[0]["image_id"]
    left = [entry for entry in entries if entry["image_id"] != first]
    path.write_text(json.dumps(left), encoding="utf-8")
    run(objects, path, tmp_path / "part")
    assert report(tmp_path / "part" / "lvis_evaluation.json")["tasks"]["bbox"]["AP"] < 99
    boxes = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in entries]
    path.write_text(json.dumps(boxes), encoding="utf-8")
    run(objects, path, tmp_path / "boxes")
    metrics = report(tmp_path / "boxes" / "lvis_evaluation.json")["tasks"]
    assert metrics["bbox"]["AP"] == pytest.approx(100) and "segm" not in metrics


def test_coco(objects, tmp_path, capsys):
    """The evaluator of a data set of COCO's type."""
    name, metadata = "test_saved_coco", MetadataCatalog.get(objects.dataset)
    document = json.loads(Path(metadata.json_file).read_text())
    for item in document["annotations"]:
        item["iscrowd"] = 0
    for item in document["images"]:
        # What makes a file one of LVIS.
        del item["neg_category_ids"], item["not_exhaustive_category_ids"]
    (tmp_path / "coco.json").write_text(json.dumps(document), encoding="utf-8")
    DatasetCatalog.register(name, lambda: load_records(objects.dataset))
    ids = {c["id"]: k for k, c in enumerate(sorted(document["categories"], key=lambda c: c["id"]))}
    MetadataCatalog.get(name).set(
        evaluator_type="coco",
        json_file=str(tmp_path / "coco.json"),
        thing_classes=[c["name"] for c in document["categories"]],
        thing_dataset_id_to_contiguous_id=ids,
    )
    (tmp_path / "perfect.json").write_text(json.dumps(perfect(objects)), encoding="utf-8")
    arguments = ["--dataset", name, "--predictions", str(tmp_path / "perfect.json")]
    try:
        evaluate_predictions.main([*arguments, "--output", str(tmp_path / "out")])
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    printed = capsys.readouterr().out.splitlines()
    for task in ("bbox", "segm"):
        (line,) = (line for line in printed if line.startswith(f"{task} "))
        assert line.split()[1:3] == ["AP", "100.000"]


def test_label_maps(sem_seg, tmp_path):
    run(sem_seg, sem_seg.saved, tmp_path / "json", "DATASETS.TRAIN", (sem_seg.dataset,))
    expected = report(sem_seg.saved.with_name("sem_seg_evaluation.json"))
    assert report(tmp_path / "json" / "sem_seg_evaluation.json") == expected
    maps = tmp_path / "maps"
    maps.mkdir()
    for record in load_records(sem_seg.dataset):
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        labels[labels == 255] = 0  # never counted
        name = f"{record['file_name'].rpartition('/')[2]}"
        Image.fromarray(labels).save(maps / name)
    run(sem_seg, maps, tmp_path / "folder")
    found = report(tmp_path / "folder" / "sem_seg_evaluation.json")
    assert found["mIoU"] == pytest.approx(100)
    # Of the true class 0 every pixel is called class 1: its IoU is 0.
    labels[labels == 0] = 1
    Image.fromarray(labels).save(maps / name)
    run(sem_seg, maps, tmp_path / "worse")
    assert report(tmp_path / "worse" / "sem_seg_evaluation.json")["mIoU"] < 99
    labels[0, 0] = 3
    Image.fromarray(labels).save(maps / name)
    assert_names(fail(sem_seg, maps, tmp_path / "x"), str(maps), "value 3", "0..2")
    (maps / name).unlink()
    assert_names(fail(sem_seg, maps, tmp_path / "x"), str(maps), name)


def test_bad_input(objects, sem_seg, tmp_path):
    bad = tmp_path / "bad.json"

    def message(content, made=objects):
        text = content if isinstance(content, str) else json.dumps(content)
        bad.write_text(text, encoding="utf-8")
        return fail(made, bad, tmp_path / "out")

    entries = perfect(objects)
    assert_names(message("[{"), str(bad), "not JSON")
    assert_names(message({"a": 1}), str(bad), "list")
    assert_names(message([{"image_id": 1}]), str(bad), "category_id")
    assert_names(message([{**entries[0], "image_id": 10**6}]), str(bad), "image_id 1000000")
    assert_names(message([{**entries[0], "category_id": 77}]), str(bad), "category_id 77")
    assert_names(message([{**entries[0], "bbox": [1, 2, 3]}]), str(bad), "bbox")
    half = [{k: v for k, v in entries[0].items() if k != "segmentation"}, *entries[1:]]
    assert_names(message(half), str(bad), "segmentation")
    assert_names(fail(objects, tmp_path / "none", tmp_path / "out"), str(tmp_path / "none"))
    assert_names(fail(objects, tmp_path, tmp_path / "out"), str(tmp_path), "folder")
    assert_names(message([], sem_seg), str(bad), "no prediction")
    with pytest.raises(SystemExit, match=r"error: .*--dataset"):
        evaluate_predictions.main(["--predictions", str(bad), "--output", str(tmp_path)])
