# SPDX-License-Identifier: Apache-2.0
"""The LVIS evaluator against lvis-api, through detectron2's evaluator."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import LVISEvaluator as Detectron2Evaluator
from detectron2.structures import Boxes, Instances

from longtail.evaluation import LVISEvaluator
from tests.evaluation.lvis.scenes import (
    NUM_CATEGORIES,
    make_annotations,
    make_predictions,
    register,
    run,
)

FIGURES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


@pytest.fixture
def lvis_api(monkeypatch):
    """Figures of the lvis package, which still uses a type that numpy no longer has."""
    monkeypatch.setattr(np, "float", float, raising=False)

    def evaluate(name, inputs, outputs, limit=300):
        evaluator = Detectron2Evaluator(name, distributed=False, max_dets_per_image=limit)
        return run(evaluator, inputs, outputs)

    return evaluate


def assert_equal_figures(results, expected):
    assert list(results) == list(expected)
    for task in expected:
        assert list(results[task]) == FIGURES
        for figure, value in expected[task].items():
            value = math.nan if value == -100 else value  # lvis-api's -1 for "none"
            np.testing.assert_allclose(
                results[task][figure] / 100, value / 100, rtol=0, atol=1e-12, err_msg=figure
            )


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes(tmp_path, lvis_api, seed):
    content = make_annotations(seed)
    name = register(tmp_path, content)
    inputs, outputs = make_predictions(content, seed)
    assert max(len(output["instances"]) for output in outputs) > 300
    results = run(LVISEvaluator(name), inputs, outputs)
    assert_equal_figures(results, lvis_api(name, inputs, outputs))
    assert 5 < results["segm"]["AP"] < 60  # neither trivially nothing nor everything


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_the_limit_comes_before_the_federated_rules(tmp_path, lvis_api, limit):
    content = make_annotations(10)
    name = register(tmp_path, content)
    inputs, outputs = make_predictions(content, 11)
    results = run(LVISEvaluator(name, max_dets_per_image=limit), inputs, outputs)
    assert_equal_figures(results, lvis_api(name, inputs, outputs, limit))
    unlimited = run(LVISEvaluator(name), inputs, outputs)
    assert results["bbox"]["AP"] != unlimited["bbox"]["AP"]


def test_many_ties(tmp_path, lvis_api):
    """All scores equal: only the order of images and detections decides."""
    content = make_annotations(20)
    name = register(tmp_path, content)
    inputs, outputs = make_predictions(content, 21)
    for output in outputs:
        output["instances"].scores.fill_(0.5)
    results = run(LVISEvaluator(name), inputs, outputs)
    assert_equal_figures(results, lvis_api(name, inputs, outputs))


def test_order_of_processing_does_not_matter(tmp_path):
    content = make_annotations(30)
    name = register(tmp_path, content)
    inputs, outputs = make_predictions(content, 31)
    forwards = run(LVISEvaluator(name), inputs, outputs)
    backwards = run(LVISEvaluator(name), inputs[::-1], outputs[::-1])
    np.testing.assert_equal(backwards, forwards)


def test_one_size_and_one_group_missing(tmp_path, lvis_api):
    """No large objects and no rare category: lvis-api's -1, here NaN."""
    content = make_annotations(40)
    content["annotations"] = [a for a in content["annotations"] if a["area"] < 96**2]
    for category in content["categories"]:
        category["frequency"] = category["frequency"].replace("r", "c")
    name = register(tmp_path, content)
    inputs, outputs = make_predictions(content, 41)
    results = run(LVISEvaluator(name), inputs, outputs)
    assert math.isnan(results["bbox"]["APl"]) and math.isnan(results["segm"]["APr"])
    assert_equal_figures(results, lvis_api(name, inputs, outputs))


def test_boxes_alone(tmp_path, lvis_api):
    content = make_annotations(50)
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    name = register(tmp_path, content)
    inputs, outputs = make_predictions(content, 51)
    for output in outputs:
        output["instances"].remove("pred_masks")
    results = run(LVISEvaluator(name), inputs, outputs)
    assert list(results) == ["bbox"]
    assert_equal_figures(results, lvis_api(name, inputs, outputs))


def test_class_indices_from_the_metadata(tmp_path, lvis_api):
    content = make_annotations(60)
    # Categories 1..12 of the file as classes 11..0 of the model.
    mapping = {c + 1: NUM_CATEGORIES - 1 - c for c in range(NUM_CATEGORIES)}
    name = register(tmp_path, content, thing_dataset_id_to_contiguous_id=mapping)
    inputs, outputs = make_predictions(content, 61)
    straight = run(LVISEvaluator(register(tmp_path, content)), inputs, outputs)
    for output in outputs:
        instances = output["instances"]
        instances.pred_classes = NUM_CATEGORIES - 1 - instances.pred_classes
    results = run(LVISEvaluator(name), inputs, outputs)
    np.testing.assert_equal(results, straight)
    assert_equal_figures(results, lvis_api(name, inputs, outputs))


def detections_from(content, rng):
    """Boxes and masks near the annotations, in other images' categories as well."""
    inputs, outputs = [], []
    all_categories = [a["category_id"] for a in content["annotations"]]
    for image in content["images"]:
        height, width = image["height"], image["width"]
        boxes, classes = [], []
        for annotation in content["annotations"]:
            if annotation["image_id"] != image["id"]:
                continue
            x, y, w, h = annotation["bbox"]
            for _ in range(3):
                shift = rng.normal(0, 0.06, 4) * [w, h, w, h]
                boxes.append(np.clip(np.add([x, y, x + w, y + h], shift), 0, [width, height] * 2))
                other = rng.random() < 0.2
                classes.append(rng.choice(all_categories) if other else annotation["category_id"])
        boxes = np.array(boxes).reshape(-1, 4)
        masks = np.zeros((len(boxes), height, width), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, np.round(boxes).astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        instances = Instances(
            (height, width),
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
            scores=torch.tensor(rng.random(len(boxes)), dtype=torch.float32),
            pred_classes=torch.tensor(np.array(classes, np.int64) - 1),
            pred_masks=torch.from_numpy(masks),
        )
        inputs.append({"image_id": image["id"]})
        outputs.append({"instances": instances})
    return inputs, outputs


def test_real_annotations(shared_data, tmp_path, lvis_api):
    path = shared_data / "lvis" / "lvis_val_100.json"
    if not path.is_file():
        pytest.skip("lvis_val_100.json is not on this machine")
    content = json.loads(path.read_text())
    name = register(tmp_path, content)
    names = [category["name"] for category in sorted(content["categories"], key=lambda c: c["id"])]
    MetadataCatalog.get(name).thing_classes = names
    inputs, outputs = detections_from(content, np.random.default_rng(0))
    results = run(LVISEvaluator(name), inputs, outputs)
    assert_equal_figures(results, lvis_api(name, inputs, outputs))
    assert results["bbox"]["AP"] > 30
