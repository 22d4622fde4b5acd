# SPDX-License-Identifier: Apache-2.0
"""How an exported model is compared with the trained one, on numbers and models made by hand."""

import copy
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from longtail.engine import Trainer
from longtail.engine.deployment.export import class_scores, relative_difference, write_checkpoint
from longtail.losses import CrossEntropy
from longtail.modeling import ImageClassifier
from tests.messages import raises_naming
from tests.tiny_detection import CASCADE, detector_config


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # max |a - b| / max |a|, wherever the two are.
        ([1.0, -4.0, 2.0], [1.0, -4.0, 2.5], 0.5 / 4),
        ([100.0, 0.0], [100.0, 1.0], 0.01),
        ([1e-6, 0.0], [1e-6, 1e-6], 1.0),
        ([3.0], [3.0], 0.0),
        ([], [], 0.0),
        ([1.0, 2.0], [1.0], math.inf),
        ([1.0], [[1.0]], math.inf),
    ],
    ids=str,
)
def test_relative_difference_by_hand(first, second, expected):
    given = relative_difference(torch.tensor(first), torch.tensor(second))
    assert given == pytest.approx(expected, rel=1e-6)


def test_not_a_number_is_no_difference_that_passes():
    nan = torch.tensor([1.0, math.nan])
    assert math.isnan(relative_difference(torch.ones(2), nan))
    assert math.isnan(relative_difference(nan, torch.ones(2)))


class Means(Backbone):
    """The mean of each channel of an image."""

    def forward(self, image):
        return {"pooled": image.mean(dim=(2, 3))}

    def output_shape(self):
        return {"pooled": ShapeSpec(channels=3)}


@pytest.fixture
def model():
    """An image classifier of two classes with logits of about 127.5 and -255."""
    model = ImageClassifier(
        backbone=Means(), class_loss=CrossEntropy(2), pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3
    ).eval()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[1.0, 0, 0], [0, -2, 0]]))
    return model


def write(folder, model: nn.Module, change) -> float:
    """Export the model with its bias changed as that of a wrong folding would be."""
    folded = copy.deepcopy(model)
    with torch.no_grad():
        folded.classifier.bias.add_(change)
    return write_checkpoint(str(folder / "out.pth"), model, folded, copy.deepcopy(model), size=32)


def test_a_difference_within_rounding_is_written(tmp_path, model):
    """1e-3 of logits up to 255 are 4e-6 of the largest, less than 1e-5."""
    difference = write(tmp_path, model, torch.tensor([1e-3, 0]))
    assert difference == pytest.approx(1e-3 / 255, rel=0.05)
    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert written["classifier.bias"].tolist() == pytest.approx([1e-3, 0])


@pytest.mark.parametrize("change", [5e-3, 0.1, math.inf, math.nan])
def test_a_larger_one_is_not(tmp_path, model, change):
    """5e-3 of 255 are 2e-5."""
    with raises_naming(ValueError, "1e-05"):
        write(tmp_path, model, torch.tensor([change, 0]))
    assert not list(tmp_path.iterdir())


def test_scores_of_a_cascade_are_those_of_all_stages(tmp_path):
    """A change of the last stage alone shows, in the last third of the rows alone."""
    torch.manual_seed(0)
    model = Trainer.build_model(detector_config(tmp_path, CASCADE)).eval()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    before = class_scores(model, image)
    with torch.no_grad():
        model.roi_heads.box_predictor[2].cls_score.bias += 1
    after = class_scores(model, image)
    rois = len(before) // 3
    # 20 proposals in every stage; K + 1 = 4 scores.
    assert before.shape == after.shape == (60, 4) and rois == 20
    assert before.dtype == torch.float64
    changed = (after - before).abs() > 0
    assert changed[2 * rois :].all() and not changed[: 2 * rois].any()
