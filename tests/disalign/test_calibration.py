# SPDX-License-Identifier: Apache-2.0
"""The module that holds alpha, beta and the confidence layer."""

import itertools

import pytest
import torch
from disalign.calibration import AdaptiveCalibration
from disalign.functional import alignment_loss, calibrate_logits
from torch import nn

K, C = 5, 7
FORMS = [
    dict(zip(("magnitude", "margin", "confidence", "confidence_bias"), flags, strict=True))
    for flags in itertools.product([True, False], repeat=4)
    if flags[0] or flags[1]
]
form_ids = [" ".join(k for k, v in form.items() if v) for form in FORMS]


def learned_tensors(form: dict[str, bool]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a form learns, from the table of FORMS alone."""
    tensors = {}
    if form["magnitude"]:
        tensors["alpha"] = (K,)
    if form["margin"]:
        tensors["beta"] = (K,)
    if form["confidence"]:
        tensors["confidence_layer.weight"] = (1, C)
        if form["confidence_bias"]:
            tensors["confidence_layer.bias"] = (1,)
    return tensors


def make_inputs(*shape: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(*shape, K, generator=generator)
    return logits, torch.randn(*shape, C, generator=generator)


def disturb(calibration: AdaptiveCalibration, seed: int = 0) -> AdaptiveCalibration:
    """Move what is learned away from the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in calibration.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return calibration


@pytest.mark.parametrize("form", FORMS, ids=form_ids)
@pytest.mark.parametrize("shape", [(6,), (0,), (2, 3, 4), ()], ids=str)
def test_at_its_start_it_is_the_identity(form, shape):
    logits, features = make_inputs(*shape)
    # Whatever the confidence.
    calibration = AdaptiveCalibration(K, C, **form)
    for scale in (0.0, 1.0, 1e3):
        assert torch.equal(calibration(logits, scale * features), logits)


@pytest.mark.parametrize("form", FORMS, ids=form_ids)
def test_a_form_learns_exactly_what_it_says(form):
    calibration = AdaptiveCalibration(K, C, **form)
    expected = learned_tensors(form)
    assert {n: tuple(p.shape) for n, p in calibration.named_parameters()} == expected
    assert {n: tuple(t.shape) for n, t in calibration.state_dict().items()} == expected
    assert all(p.requires_grad for p in calibration.parameters())

    # From a point that is not the identity, everything that is learned gets a gradient, and a step
    # leaves the rest at alpha = 1, beta = 0, sigma = 1.
    disturb(calibration)
    logits, features = make_inputs(9)
    optimizer = torch.optim.SGD(calibration.parameters(), lr=0.1)
    loss = alignment_loss(calibration(logits, features), torch.arange(9) % K, torch.ones(K))
    loss.backward()
    assert all(p.grad.abs().max() > 1e-6 for p in calibration.parameters())
    optimizer.step()
    if not form["magnitude"]:
        assert torch.equal(calibration.alpha, torch.ones(K))
    if not form["margin"]:
        assert torch.equal(calibration.beta, torch.zeros(K))
    if not form["confidence"]:
        assert torch.equal(calibration.confidence(features), torch.ones(9, 1))


@pytest.mark.parametrize("form", FORMS, ids=form_ids)
def test_it_is_equation_5_of_its_parts(form):
    calibration = disturb(AdaptiveCalibration(K, C, **form).double())
    logits, features = (t.double() for t in make_inputs(6))
    alpha = calibration.alpha if form["magnitude"] else 1
    beta = calibration.beta if form["margin"] else 0
    sigma = 1
    if form["confidence"]:
        layer = calibration.confidence_layer
        activation = features @ layer.weight[0]
        if form["confidence_bias"]:
            activation = activation + layer.bias
        sigma = (1 / (1 + (-activation).exp()))[:, None]
    expected = sigma * (alpha * logits + beta) + (1 - sigma) * logits
    torch.testing.assert_close(calibration(logits, features), expected, rtol=0, atol=1e-12)
    assert (expected - logits).abs().max() > 0.1


@pytest.mark.parametrize("form", FORMS, ids=form_ids)
def test_a_checkpoint_restores_it(form):
    source = disturb(AdaptiveCalibration(K, C, **form))
    other = AdaptiveCalibration(K, C, **form)
    other.load_state_dict(source.state_dict())
    inputs = make_inputs(6)
    assert torch.equal(other(*inputs), source(*inputs))


@pytest.mark.parametrize("confidence", [True, False])
def test_a_calibration_that_learns_nothing_is_an_error(confidence):
    with pytest.raises(ValueError, match="learns nothing: set MAGNITUDE, MARGIN") as info:
        AdaptiveCalibration(K, C, magnitude=False, margin=False, confidence=confidence)
    assert "\n" not in str(info.value)


def test_confidence_is_one_number_a_sample_that_starts_near_one_half():
    torch.manual_seed(0)
    calibration = AdaptiveCalibration(1203, 1024)
    weight = calibration.confidence_layer.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert abs(weight.mean().item()) < 1e-3
    assert calibration.confidence_layer.bias.item() == 0
    sigma = calibration.confidence(torch.randn(64, 1024))
    assert sigma.shape == (64, 1) and ((sigma > 0.2) & (sigma < 0.8)).all()


def test_pixels_are_calibrated_as_a_list_of_samples():
    """Segmentation and classification use it as it is: only the last dimension means something."""
    calibration = disturb(AdaptiveCalibration(K, C))
    logits, features = make_inputs(2, 3, 4)
    calibrated = calibration(logits, features)
    flat = calibration(logits.flatten(0, 2), features.flatten(0, 2))
    torch.testing.assert_close(calibrated, flat.view(2, 3, 4, K), rtol=0, atol=1e-6)
    one = calibration(logits[1, 2, 3], features[1, 2, 3])
    torch.testing.assert_close(calibrated[1, 2, 3], one, rtol=0, atol=1e-6)


def test_it_learns_the_prior_that_the_weights_ask_for():
    """A classifier biased to frequent classes: beta alone brings it back to balance."""
    counts = torch.tensor([1000.0, 300, 100, 30, 10])
    classes = torch.arange(K).repeat_interleave(counts.long())
    logits = counts.log().expand(len(classes), K)  # says nothing but the prior
    weights = K / counts / (1 / counts).sum()
    calibration = AdaptiveCalibration(K, C, magnitude=False, confidence=False)
    optimizer = torch.optim.LBFGS(calibration.parameters(), max_iter=100, tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        features = logits.new_zeros(len(classes), C)
        loss = alignment_loss(calibration(logits, features), classes, weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    probabilities = calibration(logits[0], torch.zeros(C)).softmax(-1)
    torch.testing.assert_close(probabilities, torch.full((K,), 1 / K), rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", FORMS[:1] + FORMS[-1:], ids=[form_ids[0], form_ids[-1]])
def test_under_autocast_it_is_the_identity_and_trains(form):
    calibration = AdaptiveCalibration(K, C, **form)
    classifier = nn.Linear(C, K)
    _, features = make_inputs(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(features)
        calibrated = calibration(logits, features)
        assert logits.dtype == torch.bfloat16
        assert torch.equal(calibrated, logits.to(calibrated.dtype))
        loss = alignment_loss(calibrated, torch.arange(6) % K, torch.ones(K))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in calibration.parameters())


def test_features_or_logits_of_another_width_are_refused():
    calibration = AdaptiveCalibration(K, C)
    logits, features = make_inputs(4)
    with pytest.raises(ValueError, match=r"alpha and beta must have shape \(6,\)"):
        calibration(torch.zeros(4, K + 1), features)
    with pytest.raises(ValueError, match="confidence must have shape"):
        calibration(logits, features[:3])


def test_the_functional_form_is_what_it_uses():
    calibration = disturb(AdaptiveCalibration(K, C))
    logits, features = make_inputs(6)
    sigma = calibration.confidence(features)
    expected = calibrate_logits(logits, calibration.alpha, calibration.beta, sigma)
    assert torch.equal(calibration(logits, features), expected)
