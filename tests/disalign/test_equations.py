# SPDX-License-Identifier: Apache-2.0
"""Eq. 5 and Eq. 6 as printed, and the confidence of the released segmentation head, in float64.

Shape alphabet: S samples, C channels, K classes.
"""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from disalign.calibration import AdaptiveCalibration
from disalign.folding import fold_calibration
from disalign.functional import calibrate_logits
from torch import nn

from longtail.config import load_config
from tests.disalign.segmentors import first_head, make_inputs, second_head
from tests.messages import raises_naming
from tests.references.methods import calibrated

S, C, K = 6, 5, 4
FORMS = ("eq5", "eq6")
CLOSE = {"rel": 1e-12, "abs": 1e-12}


def slopes(form, z, s, alpha, beta):
    """Derivatives of one score by z, alpha, beta and sigma, by hand."""
    by_z = 1 - s + s * alpha if form == "eq5" else 1 + s * alpha
    by_s = alpha * z + beta - z if form == "eq5" else alpha * z + beta
    return by_z, s * z, s, by_s


def numbers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    z, alpha, beta = (torch.randn(shape, **options) for shape in ((S, K), (K,), (K,)))
    return z, alpha, beta, torch.rand(S, 1, **options)


@pytest.mark.parametrize("form", FORMS)
def test_scores_and_gradients_as_printed(form):
    z, alpha, beta, s = (x.requires_grad_() for x in numbers())
    found = calibrate_logits(z, alpha, beta, s, form)
    weights = torch.arange(1.0, S * K + 1, dtype=torch.float64).view(S, K)
    gradients = torch.autograd.grad((weights * found).sum(), (z, alpha, beta, s))
    sums = [torch.zeros(S, K), torch.zeros(K), torch.zeros(K), torch.zeros(S, 1)]
    sums = [x.double() for x in sums]
    for i in range(S):
        for j in range(K):
            values = [x.item() for x in (z[i, j], alpha[j], beta[j], s[i, 0])]
            assert found[i, j].item() == pytest.approx(calibrated(form, *values), **CLOSE)
            slope = slopes(form, values[0], values[3], values[1], values[2])
            for where, k, value in zip(((i, j), j, j, (i, 0)), range(4), slope, strict=True):
                sums[k][where] += float(weights[i, j]) * value
    for gradient, expected in zip(gradients, sums, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("branch", ["linear", "released"])
def test_the_start_is_the_identity_bit_for_bit(form, branch):
    torch.manual_seed(0)
    calibration = AdaptiveCalibration(K, C, form=form, confidence_branch=branch)
    assert calibration.alpha.tolist() == [1.0 if form == "eq5" else 0.0] * K
    logits, features = torch.randn(S, K), torch.randn(S, C)
    assert torch.equal(calibration(logits, features), logits)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_eq_6_without_confidence_is_folded_exactly(kind):
    torch.manual_seed(1)
    calibration = AdaptiveCalibration(K, C, form="eq6", confidence=False).double()
    nn.init.normal_(calibration.alpha)
    nn.init.normal_(calibration.beta)
    layer = kind(C, K, *([1] if kind is nn.Conv2d else [])).double()
    x = torch.randn(S, C, *([2, 3] if kind is nn.Conv2d else []), dtype=torch.float64)
    z = layer(x)
    shape = [-1, *[1] * (z.ndim - 2)]
    alpha, beta = (p.detach().view(shape) for p in (calibration.alpha, calibration.beta))
    fold_calibration(layer, calibration)
    torch.testing.assert_close(layer(x), (1 + alpha) * z + beta, rtol=1e-12, atol=1e-12)


def released_confidence(x, w, scale, shift, mean, variance):
    """Sigmoid(ReLU(BN(w.x))) of the release, with eps 1e-5."""
    score = sum(float(a) * float(b) for a, b in zip(x, w, strict=True))
    score = (score - mean) / math.sqrt(variance + 1e-5) * scale + shift
    return 1 / (1 + math.exp(-max(score, 0.0)))


@pytest.mark.parametrize("training", [True, False])
def test_the_released_confidence_by_loops(training):
    torch.manual_seed(2)
    calibration = AdaptiveCalibration(K, C, confidence_branch="released").double()
    calibration.train(training)
    nn.init.normal_(calibration.confidence_layer.weight)
    norm = calibration.confidence_norm
    with torch.no_grad():
        norm.weight.fill_(1.5)
        norm.bias.fill_(0.2)
        norm.running_mean.fill_(0.3)
        norm.running_var.fill_(2.0)
    assert calibration.confidence_layer.bias is None
    x = torch.randn(2, C, 3, 4, dtype=torch.float64)
    w = calibration.confidence_layer.weight[0].detach()
    cells = x.permute(0, 2, 3, 1).reshape(-1, C)
    scores = [sum(float(a) * float(b) for a, b in zip(cell, w, strict=True)) for cell in cells]
    mean, variance = 0.3, 2.0
    if training:
        mean = sum(scores) / len(scores)
        variance = sum((score - mean) ** 2 for score in scores) / len(scores)
    expected = [released_confidence(cell, w, 1.5, 0.2, mean, variance) for cell in cells]
    of_map = calibration.confidence_map(x).permute(0, 2, 3, 1).flatten().tolist()
    assert of_map == pytest.approx(expected, **CLOSE)
    assert min(expected) == 0.5 < max(expected)
    if not training:
        assert calibration.confidence(cells).flatten().tolist() == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_a_head_takes_both_from_its_config(form):
    """It starts at the first stage's scores, and all of the branch is trained."""
    options = ["MODEL.DISALIGN.FORM", form, "MODEL.DISALIGN.CONFIDENCE_BRANCH", "released"]
    first, second = first_head("fcn"), second_head("fcn", *options)
    features, labels = make_inputs()
    with torch.no_grad():
        assert torch.equal(second.eval()(features)[0], first(features)[0])
    assert second.calibration.form == form
    with torch.no_grad():
        second.calibration.beta.uniform_(-1, 1)
    norm = second.calibration.confidence_norm
    assert norm.num_batches_tracked == 0
    with EventStorage():
        second.train()(features, labels)[1]["loss_sem_seg"].backward()
    assert norm.num_batches_tracked == 1
    names = {name for name, p in second.calibration.named_parameters() if p.grad.abs().sum() > 0}
    norm = {"confidence_norm.weight", "confidence_norm.bias"}
    assert names == {"alpha", "beta", "confidence_layer.weight", *norm}


def test_a_released_confidence_cannot_be_folded():
    with raises_naming(ValueError, "MODEL.DISALIGN.CONFIDENCE"):
        fold_calibration(nn.Linear(C, K), AdaptiveCalibration(K, C, confidence_branch="released"))


@pytest.mark.parametrize(
    ("option", "key", "known"),
    [("form", "FORM", FORMS), ("confidence_branch", "CONFIDENCE_BRANCH", ("linear", "released"))],
)
def test_unknown_values_are_named(option, key, known):
    with raises_naming(ValueError, f"MODEL.DISALIGN.{key}", *known, "eq7"):
        AdaptiveCalibration(K, C, **{option: "eq7"})
    assert load_config("").MODEL.DISALIGN[key] == known[0]
