# SPDX-License-Identifier: Apache-2.0
"""COCO's JSON without anything of LVIS: COCO's AP, LVIS's AP, and frequencies from training."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from longtail.config.loading import get_cfg
from longtail.data.statistics.groups import FrequencyBounds
from longtail.evaluation import LVISEvaluator, build_evaluator
from longtail.evaluation.coco import CocoEvaluator
from tests.coco_documents import (
    IDS,
    box,
    detections,
    document,
    evaluate,
    image,
    random_scene,
    register,
)
from tests.messages import raises_naming

COMMON = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))


def detectron2s(folder, content, found):
    """What detectron2 says of the same file with all that it needs, which is filled in here."""
    for item in content["annotations"]:
        item |= {"iscrowd": 0, "area": item["bbox"][2] * item["bbox"][3]}
    path = folder / "complete.json"
    path.write_text(json.dumps({"info": {}, **content}))
    metadata = MetadataCatalog.get(str(path))
    metadata.set(
        json_file=str(path),
        thing_classes=list(IDS),
        thing_dataset_id_to_contiguous_id={number: c for c, number in enumerate(IDS.values())},
    )
    evaluator = COCOEvaluator(str(path), ("bbox",), False, use_fast_impl=False)
    return evaluate(evaluator, found)["bbox"]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_detectron2(tmp_path, seed):
    images, annotations, found = random_scene(seed)
    content = document(images, annotations)
    name = register(tmp_path, content)
    own = evaluate(CocoEvaluator(name, str(tmp_path / "out")), found)["bbox"]
    expected = detectron2s(tmp_path, content, found)
    assert 5 < own["AP"] < 95
    np.testing.assert_allclose([own[k] for k in COMMON], [expected[k] for k in COMMON], atol=1e-9)
    report = json.loads((tmp_path / "out" / "lvis_evaluation.json").read_text())
    # detectron2 gives the categories, in the order of their ids, the names of the classes.
    labels = dict(zip(sorted(IDS, key=IDS.get), IDS, strict=True))
    for row in report["categories"]:
        assert row["bbox"]["AP"] == pytest.approx(expected[f"AP-{labels[row['name']]}"])
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {item["category_id"] for item in results} <= set(IDS.values())
    # The metrics of two definitions must not be compared.
    lvis = LVISEvaluator(name, str(tmp_path / "lvis"))
    evaluate(lvis, found)
    other = json.loads((tmp_path / "lvis" / "lvis_evaluation.json").read_text())
    assert report["fingerprint"] != other["fingerprint"]


def test_nothing_found_is_zero_and_not_unknown(tmp_path):
    name = register(tmp_path, document([image(1)], [box(1, 1, "red", [5, 5, 20, 20])]))
    metrics = evaluate(CocoEvaluator(name), {1: detections([])})["bbox"]
    assert metrics["AP"] == 0 and np.isnan(metrics["APl"])


@pytest.mark.parametrize("metrics", ["coco", "lvis"])
def test_frequencies_are_counted_in_training_images_by_the_bounds(tmp_path, metrics):
    # red is in 3 training images, green in 2, blue in 1 (twice).
    images = [image(n) for n in (1, 2, 3)]
    boxes = [("red", 1), ("red", 2), ("red", 3), ("green", 1), ("green", 2), ("blue", 1)]
    boxes += [("blue", 1)]
    items = [box(n, where, name, [4, 4, 10, 10]) for n, (name, where) in enumerate(boxes, 1)]
    for number in (1, 2, 3):
        (tmp_path / f"{number}.png").touch()
    training = register(tmp_path, document(images, items))
    truth = [box(1, 1, name, [5 + 20 * c, 5, 10, 10]) for c, name in enumerate(IDS)]
    truth = [{**item, "id": n} for n, item in enumerate(truth, 1)]
    bounds = FrequencyBounds(1, 2)
    name = register(tmp_path, document([image(1)], truth), metrics=metrics, bounds=bounds)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (training,)
    # Only blue is found.
    found = {1: detections([([45, 5, 10, 10], 2, 0.9)])}
    values = evaluate(build_evaluator(cfg, name), found)["bbox"]
    assert [values[k] for k in ("APr", "APc", "APf")] == pytest.approx([100, 0, 0])
    assert values["AP"] == pytest.approx(100 / 3)


def test_every_image_is_exhaustive_in_lvis_metrics(tmp_path):
    """A better-scored wrong detection where nothing is annotated halves the precision."""
    content = document([image(1), image(2)], [box(1, 1, "red", [5, 5, 20, 20])])
    name = register(tmp_path, content, metrics="lvis")
    found = {
        1: detections([([5, 5, 20, 20], 0, 0.5)]),
        2: detections([([5, 5, 20, 20], 0, 0.9)]),
    }
    assert evaluate(LVISEvaluator(name), found)["bbox"]["AP"] == pytest.approx(50)


def test_what_overlaps_nothing_counts_for_nothing_where_there_is_a_crowd(tmp_path):
    items = [
        box(1, 1, "red", [5, 5, 20, 20]),
        box(2, 2, "red", [0, 0, 60, 60], iscrowd=1),
    ]
    name = register(tmp_path, document([image(1), image(2)], items), metrics="lvis")
    found = {
        1: detections([([5, 5, 20, 20], 0, 0.5)]),
        2: detections([([5, 5, 20, 20], 0, 0.9)]),
    }
    assert evaluate(LVISEvaluator(name), found)["bbox"]["AP"] == pytest.approx(100)


def test_masks_give_areas_and_are_evaluated(tmp_path):
    shape = [[4, 4, 24, 4, 24, 24, 4, 24]]
    name = register(
        tmp_path, document([image(1)], [box(1, 1, "red", [4, 4, 20, 20], segmentation=shape)])
    )
    evaluator = CocoEvaluator(name)
    assert evaluator.annotations.images[0].area.tolist() == [400]
    instances = detections([([4, 4, 20, 20], 0, 0.5)])
    masks = np.zeros((1, 64, 64), bool)
    masks[0, 4:24, 4:24] = True
    instances.pred_masks = torch.from_numpy(masks)
    metrics = evaluate(evaluator, {1: instances})
    assert [metrics[k]["AP"] for k in ("bbox", "segm")] == pytest.approx([100, 100])


def test_records_find_categories_by_name_and_images_by_file_name(tmp_path):
    (tmp_path / "1.png").touch()
    url = "http://images.example.org/val2017/1.png"
    content = document([image(1, coco_url=url)], [box(1, 1, "blue", [5, 5, 9, 9])])
    (record,) = DatasetCatalog.get(register(tmp_path, content))
    assert record["file_name"] == str(tmp_path / "1.png")
    assert [item["category_id"] for item in record["annotations"]] == [2]
    name = register(tmp_path, content, classes=None)
    (record,) = DatasetCatalog.get(name)
    # In the order of their ids.
    assert MetadataCatalog.get(name).thing_classes == ["green", "blue", "red"]
    assert [item["category_id"] for item in record["annotations"]] == [1]


def test_errors_are_said_when_the_data_set_is_read(tmp_path):
    content = document([image(1)], [box(1, 1, "red", [5, 5, 9, 9])])
    name = register(tmp_path, content)
    with raises_naming(FileNotFoundError, name, "1.png"):
        DatasetCatalog.get(name)
    (tmp_path / "1.png").touch()
    name = register(tmp_path, content, classes=["red", "green", "violet"])
    with raises_naming(ValueError, name, "blue"):
        DatasetCatalog.get(name)
    with raises_naming(ValueError, "blue"):
        CocoEvaluator(name)
    of_lvis = document([image(1, neg_category_ids=[])], [])
    with raises_naming(ValueError, "neg_category_ids", "format: lvis"):
        CocoEvaluator(register(tmp_path, of_lvis))
    with raises_naming(ValueError, "voc"):
        register(tmp_path, content, metrics="voc")


def test_coco_json_registered_as_lvis_is_said_at_once(tmp_path):
    """Before a training, whose test sets get their evaluators first."""
    from longtail.data.datasets import register_lvis_instances

    path = tmp_path / "c.json"
    path.write_text(json.dumps(document([image(1)], [box(1, 1, "red", [5, 5, 9, 9], area=81)])))
    register_lvis_instances("coco_as_lvis", path, tmp_path)
    with raises_naming(ValueError, "'neg_category_ids'", "kind: instances", "register_coco_json"):
        LVISEvaluator("coco_as_lvis")
