# SPDX-License-Identifier: Apache-2.0
"""As what a model is tested: itself, in windows, or without pasting masks that cannot count."""

import pytest
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from longtail.engine.inference.build import build_inference
from longtail.engine.inference.finite import FiniteDetections
from longtail.engine.inference.sliding_window import SlidingWindowInference
from longtail.engine.training.trainer import Trainer
from longtail.evaluation import LVISEvaluator, UnpastedInference
from longtail.evaluation.coco import CocoEvaluator
from tests.tiny import tiny_config
from tests.tiny_detection import detector_config


def detector() -> GeneralizedRCNN:
    parts = {name: nn.Identity() for name in ("backbone", "proposal_generator", "roi_heads")}
    return GeneralizedRCNN(**parts, pixel_mean=(0.0,), pixel_std=(1.0,))


@pytest.mark.parametrize("unpasted", [True, False])
def test_masks_are_left_unpasted_where_that_is_wanted(tmp_path, unpasted):
    model = detector()
    checked = build_inference(detector_config(tmp_path), model, unpasted=unpasted)
    assert type(checked) is FiniteDetections
    tested = checked.model
    assert type(tested) is (UnpastedInference if unpasted else GeneralizedRCNN)
    assert unpasted or tested is model


@pytest.mark.parametrize(
    ("evaluators", "unpasted"),
    [
        ([LVISEvaluator], True),
        ([LVISEvaluator, CocoEvaluator], True),
        # detectron2's read pixels.
        ([COCOEvaluator], False),
        ([LVISEvaluator, COCOEvaluator], False),
        (COCOEvaluator, False),
        (CocoEvaluator, True),
    ],
    ids=str,
)
def test_a_test_leaves_masks_unpasted_for_evaluators_that_take_them(
    tmp_path, monkeypatch, evaluators, unpasted
):
    def made(kind):
        return kind.__new__(kind)

    tested = []
    monkeypatch.setattr(
        DefaultTrainer, "test", classmethod(lambda cls, cfg, model, e: tested.append(model))
    )
    given = [made(e) for e in evaluators] if isinstance(evaluators, list) else made(evaluators)
    Trainer.test(detector_config(tmp_path), detector(), given)
    assert isinstance(tested[0].model, UnpastedInference) == unpasted


def test_windows_have_the_size_and_the_distance_of_the_config(tmp_path):
    options = ["MODE", "slide", "CROP_SIZE", [64, 96], "STRIDE", [32, 48]]
    options = [f"TEST.SEM_SEG.{x}" if i % 2 == 0 else x for i, x in enumerate(options)]
    model = nn.Identity()
    tested = build_inference(tiny_config(tmp_path, options), model)
    assert type(tested) is SlidingWindowInference and tested.model is model
    assert (tested.crop_size, tested.stride) == ((64, 96), (32, 48))
    assert build_inference(tiny_config(tmp_path), model) is model
