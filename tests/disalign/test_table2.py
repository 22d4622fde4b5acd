# SPDX-License-Identifier: Apache-2.0
"""Table 2 of the paper as theorems: which settings of the calibration are which other method.

In float64, against the formulas in plain loops, and against this project's own methods.

Shape alphabet: S samples, C channels, K classes.
"""

import math

import pytest
import torch
from disalign.calibration import AdaptiveCalibration
from disalign.functional import alignment_loss, calibrate_logits, generalized_reweight
from torch import nn
from torch.nn import functional as F

from longtail.modeling.classification.second_stage import ClassScaling
from longtail.modeling.nearest_mean import nearest_class_mean
from longtail.modeling.post_hoc import logit_adjustment, tau_norm

S, C, K = 40, 6, 5
COUNTS = (500, 120, 40, 9, 2)


@pytest.fixture
def frozen():
    """A trained classifier as Table 2 has it: features, classes, weight, bias, logits."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    features, weight = torch.randn(S, C, **options), torch.randn(K, C, **options)
    bias = torch.randn(K, **options)
    classes = torch.randint(K, (S,), generator=generator)
    return features, classes, weight, bias, features @ weight.T + bias


def calibration(**options) -> AdaptiveCalibration:
    return AdaptiveCalibration(K, C, **options).double()


def test_a_new_calibration_is_joint_training(frozen):
    """First row: the classifier as it was trained, whatever the confidence; bit for bit."""
    features, *_, logits = frozen
    new = calibration()
    nn.init.normal_(new.confidence_layer.weight)
    assert torch.equal(new(logits, features), logits)


def test_magnitude_alone_is_lws(frozen):
    """z^_j = f_j z_j: values, loss and gradients, where samples are weighed alike (rho = 0)."""
    features, classes, *_, logits = frozen
    factors = torch.rand(K, generator=torch.Generator().manual_seed(1)).double() + 0.5
    lws = ClassScaling(K).double()
    ours = calibration(magnitude=True, margin=False, confidence=False)
    with torch.no_grad():
        lws.factor.copy_(factors)
        ours.alpha.copy_(factors)
    assert [name for name, _ in ours.named_parameters()] == ["alpha"]
    given, expected = ours(logits, features), lws(logits)
    for i in range(S):
        for j in range(K):
            z = float(factors[j]) * float(logits[i, j])
            assert given[i, j].item() == pytest.approx(z, abs=1e-14)
            assert expected[i, j].item() == pytest.approx(z, abs=1e-14)
    weights = generalized_reweight(torch.tensor(COUNTS), rho=0.0)
    loss = alignment_loss(given, classes, weights)
    other = F.cross_entropy(expected, classes)
    torch.testing.assert_close(loss, other, rtol=0, atol=1e-14)
    (own,) = torch.autograd.grad(loss, ours.alpha)
    (gradient,) = torch.autograd.grad(other, lws.factor)
    assert gradient.abs().max() > 0.01
    torch.testing.assert_close(own, gradient, rtol=0, atol=1e-14)


def test_training_the_magnitude_alone_stays_lws(frozen):
    """And so do 20 steps of SGD with momentum, from the same start."""
    features, classes, *_, logits = frozen
    lws = ClassScaling(K).double()
    ours = calibration(magnitude=True, margin=False, confidence=False)
    weights = generalized_reweight(torch.tensor(COUNTS), rho=0.0)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (ours, lws)]
    for _ in range(20):
        losses = (
            alignment_loss(ours(logits, features), classes, weights),
            F.cross_entropy(lws(logits), classes),
        )
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert (lws.factor - 1).abs().max() > 0.1
    torch.testing.assert_close(ours.alpha, lws.factor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0, 2.0])
def test_magnitude_by_the_length_of_the_weight_is_tau_norm(frozen, tau):
    """alpha_j = 1 / |w_j|^tau, beta = 0."""
    features, _, weight, bias, logits = frozen
    alpha = torch.tensor(
        [1 / math.sqrt(sum(v * v for v in row)) ** tau for row in weight.tolist()],
        dtype=torch.float64,
    )
    given = calibrate_logits(logits, alpha, torch.zeros(K).double(), 1.0)
    for i in range(S):
        for j in range(K):
            z = sum(w * x for w, x in zip(weight[j].tolist(), features[i].tolist(), strict=True))
            length = math.sqrt(sum(w * w for w in weight[j].tolist()))
            expected = (z + bias[j].item()) / length**tau
            assert given[i, j].item() == pytest.approx(expected, abs=1e-13)
    changed, changed_bias = tau_norm(weight, bias, tau, keep_bias=True)
    torch.testing.assert_close(given, features @ changed.T + changed_bias, rtol=0, atol=1e-13)
    if tau > 0:
        assert not torch.allclose(given, logits)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_margin_by_the_frequency_is_logit_adjustment(frozen, strength):
    """alpha = 1, beta_j = -lambda log r_j."""
    features, _, weight, bias, logits = frozen
    beta = torch.tensor(
        [-strength * math.log(n / sum(COUNTS)) for n in COUNTS], dtype=torch.float64
    )
    given = calibrate_logits(logits, torch.ones(K).double(), beta, 1.0)
    for i in range(S):
        for j in range(K):
            expected = logits[i, j].item() - strength * math.log(COUNTS[j] / sum(COUNTS))
            assert given[i, j].item() == pytest.approx(expected, abs=1e-13)
    adjusted = logit_adjustment(bias, torch.tensor(COUNTS), strength)
    torch.testing.assert_close(given, features @ weight.T + adjusted, rtol=0, atol=1e-13)


def test_at_strength_1_the_adjusted_probabilities_are_those_of_balanced_classes(frozen):
    """What the row means: p(y | x) / r_y, normalized, is the posterior under a uniform prior."""
    *_, logits = frozen
    beta = torch.tensor([-math.log(n / sum(COUNTS)) for n in COUNTS], dtype=torch.float64)
    given = calibrate_logits(logits, torch.ones(K).double(), beta, 1.0).softmax(dim=1)
    for row, z in zip(given.tolist(), logits.tolist(), strict=True):
        parts = [math.exp(v) / n for v, n in zip(z, COUNTS, strict=True)]
        for p, part in zip(row, parts, strict=True):
            assert p == pytest.approx(part / sum(parts), abs=1e-13)


def test_no_setting_is_the_nearest_class_mean(frozen):
    """Its row has another classifier, w_j = e_j: no magnitude and margin make it of the logits."""
    features, _, _, _, logits = frozen
    classes = torch.arange(S) % K
    means = nearest_class_mean(features, classes, K)(features)
    for j in range(K):
        # The best alpha_j z_j + beta_j in least squares leaves a rest.
        line = torch.stack([logits[:, j], torch.ones(S).double()], dim=1)
        fitted = line @ torch.linalg.lstsq(line, means[:, j : j + 1]).solution
        assert (fitted[:, 0] - means[:, j]).abs().max() > 0.1


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
def test_the_confidence_mixes_a_row_with_the_first_one(frozen, sigma):
    """Last row, Eq. 5: sigma parts of the calibrated score and 1 - sigma of the given one."""
    *_, logits = frozen
    generator = torch.Generator().manual_seed(2)
    alpha, beta = (torch.randn(K, generator=generator, dtype=torch.float64) for _ in range(2))
    given = calibrate_logits(logits, alpha, beta, sigma)
    expected = sigma * (alpha * logits + beta) + (1 - sigma) * logits
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-14)
