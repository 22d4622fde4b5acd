# SPDX-License-Identifier: Apache-2.0
"""Masks that are pasted by the evaluator: the same figures as with masks that the model pastes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import ROIMasks
from torch import nn

from longtail.data.formats.coco_json import LVIS_KEYS
from longtail.evaluation import LVISEvaluator, UnpastedInference
from longtail.evaluation.coco import CocoEvaluator
from longtail.evaluation.lvis import detections
from tests.evaluation.lvis.scenes import register
from tests.tiny_detection import SIZE, detector_config, write_rectangles

SCALE = 2  # of the original images, relative to what the model sees


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return build_model(detector_config(tmp_path_factory.mktemp("detector"))).eval()


@pytest.fixture
def scene(tmp_path, model):
    """A data set whose annotations are some of the model's own boxes, and the model's inputs."""
    content = json.loads(write_rectangles(tmp_path, count=4).read_text())
    generator = torch.Generator().manual_seed(3)
    inputs = []
    content["annotations"] = []
    for image in content["images"]:
        image |= {"height": SCALE * SIZE, "width": SCALE * SIZE, "neg_category_ids": []}
        pixels = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        size = {"height": SCALE * SIZE, "width": SCALE * SIZE}
        inputs.append({"image": pixels, "image_id": image["id"], **size})
        with torch.no_grad():
            found = model([inputs[-1]])[0]["instances"]
        x0, y0, x1, y1 = found.pred_boxes.tensor[0].tolist()
        annotation = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        annotation["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
        annotation |= {"id": image["id"], "image_id": image["id"]}
        content["annotations"].append({**annotation, "category_id": int(found.pred_classes[0]) + 1})
    return register(tmp_path, content), [[record] for record in inputs]


def test_same_predictions(model, scene):
    batch = [records[0] for records in scene[1]]
    with torch.no_grad():
        outputs = zip(model(batch), UnpastedInference(model)(batch), strict=True)
    for expected, found in ((a["instances"], b["instances"]) for a, b in outputs):
        assert len(expected) > 5
        assert found.image_size == expected.image_size == (SCALE * SIZE, SCALE * SIZE)
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        assert isinstance(found.pred_masks, ROIMasks)
        masks = found.pred_masks.to_bitmasks(found.pred_boxes, *found.image_size).tensor
        assert torch.equal(masks, expected.pred_masks)
        assert set(found.get_fields()) == set(expected.get_fields())


@pytest.mark.parametrize("modes", [["standard"], ["standard", "fixed", "pool"]])
def test_same_figures_from_fewer_masks(model, scene, modes, monkeypatch, tmp_path):
    name, loader = scene
    pasted, encoded = [], []
    paste, encode = ROIMasks.to_bitmasks, detections.encode_roi_masks

    def counting_pasted(self, *args, **kwargs):
        pasted.append(len(self))
        return paste(self, *args, **kwargs)

    def counting_encoded(masks, *args):
        encoded.append(len(masks))
        return encode(masks, *args)

    monkeypatch.setattr(ROIMasks, "to_bitmasks", counting_pasted)
    monkeypatch.setattr(detections, "encode_roi_masks", counting_encoded)
    results, written = {}, {}
    for wrapped in (False, True):
        folder = tmp_path / str(wrapped)
        evaluator = LVISEvaluator(name, str(folder), modes=modes)
        tested = UnpastedInference(model) if wrapped else model
        results[wrapped] = inference_on_dataset(tested, loader, evaluator)
        written[wrapped] = (folder / "lvis_instances_results.json").read_bytes()
    np.testing.assert_equal(dict(results[True]), dict(results[False]))
    assert results[True]["bbox"]["AP"] > 0
    assert written[True] == written[False]
    # The first of the two alone pastes, all of them.
    assert 0 < sum(encoded) < 0.7 * sum(pasted)


def test_coco_results_without_pasting(model, scene, monkeypatch, tmp_path):
    """The detections are those that detectron2 writes of its pasted masks."""
    lvis, loader = scene
    content = json.loads(Path(MetadataCatalog.get(lvis).json_file).read_text())
    for image in content["images"]:
        for key in LVIS_KEYS:
            image.pop(key, None)
    expected = []
    for batch in loader:
        with torch.no_grad():
            found = model(batch)[0]["instances"]
        for entry in instances_to_coco_json(found, batch[0]["image_id"]):
            # Ids of categories begin at 1.
            expected.append({**entry, "category_id": entry["category_id"] + 1})
    monkeypatch.setattr(ROIMasks, "to_bitmasks", None)
    evaluator = CocoEvaluator(register(tmp_path, content), str(tmp_path))
    results = inference_on_dataset(UnpastedInference(model), loader, evaluator)
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == expected
    assert len({entry["segmentation"]["counts"] for entry in expected}) > 10
    assert results["bbox"]["AP"] > 0 and results["segm"]["AP"] >= 0


def test_mode_of_the_model_is_left_as_it_is(model, scene):
    name, loader = scene
    for training in (False, True):
        model.train(training)
        inference_on_dataset(UnpastedInference(model), loader, LVISEvaluator(name))
        assert model.training == training
    model.eval()


def test_other_models():
    with pytest.raises(TypeError, match="needs a GeneralizedRCNN, got Linear"):
        UnpastedInference(nn.Linear(1, 1))
