# SPDX-License-Identifier: Apache-2.0
"""Evaluators whose inputs are on the device give what they give for the same on the CPU."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from longtail.evaluation import SemSegEvaluator
from longtail.evaluation.classification.evaluator import ClassificationEvaluator
from longtail.evaluation.lvis.evaluator import LVISEvaluator
from tests.tiny import SIZE as SIDE
from tests.tiny import register_stripes
from tests.tiny_classification import TEST_COUNTS, register_colors
from tests.tiny_detection import SIZE, register_rectangles

NAMES = {"stripes": register_stripes, "colors": register_colors, "rectangles": register_rectangles}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        yield {
            kind: register(f"cuda_evaluators_{kind}", folder / kind)
            for kind, register in NAMES.items()
        }
    for kind in NAMES:
        DatasetCatalog.remove(f"cuda_evaluators_{kind}")
        MetadataCatalog.remove(f"cuda_evaluators_{kind}")


def equal(build, outputs_of, name, device):
    found = []
    for place in ("cpu", device):
        evaluator = build(name)
        evaluator.reset()
        for number, record in enumerate(DatasetCatalog.get(name)):
            generator = torch.Generator().manual_seed(number)
            evaluator.process([record], [outputs_of(record, generator, place)])
        found.append(evaluator.evaluate())
    assert found[0] and all(found[0].values())
    for task, metrics in found[0].items():
        assert found[1][task] == pytest.approx(metrics, nan_ok=True), task


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_semantic(sets, device, dtype):
    def outputs(record, generator, place):
        return {"sem_seg": torch.randn(3, SIDE, SIDE, generator=generator).to(place, dtype)}

    equal(SemSegEvaluator, outputs, sets["stripes"], device)


def test_classification(sets, device):
    def outputs(record, generator, place):
        return {"scores": torch.rand(len(TEST_COUNTS), generator=generator).to(place)}

    equal(ClassificationEvaluator, outputs, sets["colors"], device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_lvis(sets, device, dtype):
    def outputs(record, generator, place):
        instances = Instances((SIZE, SIZE))
        corner = 40 * torch.rand(30, 2, generator=generator)
        boxes = torch.cat([corner, corner + 18], dim=1).round()
        instances.pred_boxes = Boxes(boxes.to(place))
        instances.scores = torch.rand(30, generator=generator).to(dtype).to(place)
        instances.pred_classes = torch.randint(0, 3, (30,), generator=generator).to(place)
        masks = torch.zeros(30, SIZE, SIZE, dtype=torch.bool)
        for mask, (x, y, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y:bottom, x:right] = True
        instances.pred_masks = masks.to(place)
        return {"instances": instances}

    equal(LVISEvaluator, outputs, sets["rectangles"], device)
