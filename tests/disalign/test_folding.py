# SPDX-License-Identifier: Apache-2.0
"""Folding a calibration: Eq. 5 without confidence, once more as a classifier, in float64.

Shape alphabet: S samples, C channels, K classes.
"""

import copy

import pytest
import torch
from disalign.calibration import AdaptiveCalibration
from disalign.folding import fold_calibration, fold_detector, fold_linear
from torch import nn

from longtail.engine import Trainer
from longtail.modeling.cosine import CosineLinear
from tests.disalign.detectors import disturb

S, C, K = 6, 5, 4
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def calibration(K=K, **options):
    torch.manual_seed(1)
    return disturb(nn.ModuleDict({"calibration": AdaptiveCalibration(K, C, **options)})).double()[
        "calibration"
    ]


def test_folding_by_loops():
    generator = torch.Generator().manual_seed(0)
    shapes = [(K, C), (K,), (K,), (K,), (S, C)]
    weight, bias, alpha, beta, x = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    folded_weight, folded_bias = fold_linear(weight, bias, alpha, beta)
    found = x @ folded_weight.T + folded_bias
    for i in range(S):
        for j in range(K):
            z = sum(float(weight[j, c] * x[i, c]) for c in range(C)) + float(bias[j])
            expected = float(alpha[j]) * z + float(beta[j])
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-12, abs=1e-13)


OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"magnitude": False}, {"margin": False}], ids=["both", "margin", "magnitude"]
)


@OPTIONS
def test_a_folded_linear_layer_gives_the_calibrated_scores(options):
    layer, given = nn.Linear(C, K).double(), calibration(confidence=False, **options)
    x = torch.randn(S, C, dtype=torch.float64)
    expected = given(layer(x), x)
    assert (expected - layer(x)).abs().max() > 0.1
    fold_calibration(layer, given)
    torch.testing.assert_close(layer(x), expected, **CLOSE)


@OPTIONS
def test_a_folded_convolution_gives_the_calibrated_scores_at_every_pixel(options):
    layer, given = nn.Conv2d(C, K, 1).double(), calibration(confidence=False, **options)
    x = torch.randn(2, C, 3, 7, dtype=torch.float64)
    at_pixels = [z.permute(0, 2, 3, 1) for z in (layer(x), x)]
    expected = given(*at_pixels).permute(0, 3, 1, 2)
    fold_calibration(layer, given)
    torch.testing.assert_close(layer(x), expected, **CLOSE)


def test_the_background_row_stays():
    layer, given = nn.Linear(C, K + 1).double(), calibration(confidence=False)
    before = copy.deepcopy(layer)
    x = torch.randn(S, C, dtype=torch.float64)
    scores = layer(x)
    expected = torch.cat([given(scores[:, :-1], x), scores[:, -1:]], dim=1)
    fold_calibration(layer, given)
    torch.testing.assert_close(layer(x), expected, **CLOSE)
    assert torch.equal(layer.weight[-1], before.weight[-1])
    assert torch.equal(layer.bias[-1], before.bias[-1])


@pytest.mark.parametrize("kind", ["mask-linear", "cascade-linear"])
def test_a_folded_detector_has_the_same_scores_at_every_stage(second_stage, kind):
    cfg = second_stage(kind, "MODEL.DISALIGN.CONFIDENCE", "False")
    model = disturb(Trainer.build_model(cfg)).eval()
    folded = copy.deepcopy(model)
    fold_detector(folded)
    predictors, others = model.roi_heads.predictors, folded.roi_heads.predictors
    assert len(predictors) == (3 if kind == "cascade-linear" else 1)
    for predictor, other in zip(predictors, others, strict=True):
        predictor.double(), other.double()
        x = torch.randn(S, 12, dtype=torch.float64)
        scores, deltas = predictor(x)
        # The weights were rounded to float32.
        torch.testing.assert_close(other.cls_score(x), scores, rtol=0, atol=1e-6)
        assert (other.cls_score(x) - predictor.cls_score(x)).abs().max() > 0.1
        assert torch.equal(other.bbox_pred(x), deltas)


def test_a_confidence_cannot_be_folded():
    layer = nn.Linear(C, K)
    before = copy.deepcopy(layer)
    with pytest.raises(ValueError, match="its confidence depends on the image"):
        fold_calibration(layer, AdaptiveCalibration(K, C))
    assert torch.equal(layer.weight, before.weight)


@pytest.mark.parametrize(
    "layer", [CosineLinear(C, K), nn.Conv2d(C, K, 3), nn.Linear(C, K, bias=False)], ids=type
)
def test_what_takes_no_calibration(layer):
    with pytest.raises(ValueError, match=f"cannot be folded into a {type(layer).__name__}"):
        fold_calibration(layer, AdaptiveCalibration(K, C, confidence=False))
