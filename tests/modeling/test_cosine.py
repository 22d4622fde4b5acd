# SPDX-License-Identifier: Apache-2.0
"""The cosine classifier against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F

from longtail.modeling import CosineLinear
from tests.messages import raises_naming

C, K = 7, 5


def make_classifier(seed: int = 0, **options) -> CosineLinear:
    torch.manual_seed(seed)
    return CosineLinear(C, K, **options).double()


def make_features(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, C, generator=generator, dtype=torch.float64)


def test_logits_are_the_scaled_cosines():
    classifier, features = make_classifier(), make_features(6)
    with torch.no_grad():
        # Any length: only the initial weights have length 1.
        classifier.weight.mul_(torch.tensor([[0.1], [1], [5], [20], [300]]).double())
        classifier.scale.fill_(13.0)
    logits = classifier(features)
    for i, x in enumerate(features.tolist()):
        for j, w in enumerate(classifier.weight.tolist()):
            dot = sum(a * b for a, b in zip(x, w, strict=True))
            expected = 13 * dot / (math.hypot(*x) * math.hypot(*w))
            assert logits[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_it_has_a_learnable_scale_that_starts_at_20_and_no_bias():
    classifier = CosineLinear(C, K)
    shapes = {name: tuple(p.shape) for name, p in classifier.named_parameters()}
    assert shapes == {"weight": (K, C), "scale": ()}
    assert classifier.scale.item() == 20
    assert CosineLinear(C, K, scale=8).scale.item() == 8
    assert (classifier.in_features, classifier.out_features) == (C, K)
    assert "in_features=7, out_features=5" in repr(classifier)
    loss = F.cross_entropy(classifier(make_features(6).float()), torch.arange(6) % K)
    loss.backward()
    assert classifier.scale.grad.abs() > 1e-4 and classifier.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("factor", [1e-3, 0.5, 1e6])
def test_the_length_of_features_and_weights_does_not_matter(factor):
    classifier, features = make_classifier(), make_features(6)
    logits = classifier(features)
    torch.testing.assert_close(classifier(factor * features), logits, rtol=0, atol=1e-12)
    with torch.no_grad():
        classifier.weight.mul_(factor)
    torch.testing.assert_close(classifier(features), logits, rtol=0, atol=1e-12)


def test_logits_lie_between_minus_s_and_s_and_reach_both():
    classifier = make_classifier()
    with torch.no_grad():
        aligned = classifier(7 * classifier.weight).diagonal()
        opposite = classifier(-0.3 * classifier.weight).diagonal()
        logits = classifier(make_features(1000))
    twenty = torch.full((K,), 20.0, dtype=torch.float64)
    torch.testing.assert_close(aligned, twenty, rtol=0, atol=1e-12)
    torch.testing.assert_close(opposite, -twenty, rtol=0, atol=1e-12)
    assert logits.abs().max() <= 20 + 1e-12


def test_logits_keep_their_digits_in_mixed_precision():
    """In bfloat16 logits near 20 would be rounded to steps of 0.125."""
    classifier, features = make_classifier().float(), make_features(6).float()
    half = features.bfloat16()
    for given, exact in ((features, features), (half, half.float())):
        expected = classifier(exact)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = classifier(given)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_a_zero_feature_gives_zero_and_a_finite_gradient():
    classifier = make_classifier()
    features = make_features(3)
    features[1] = 0
    features.requires_grad_()
    logits = classifier(features)
    assert torch.equal(logits[1], torch.zeros(K, dtype=torch.float64)) and logits[0].abs().min() > 0
    logits.sum().backward()
    assert all(t.grad.isfinite().all() for t in (features, classifier.weight, classifier.scale))


def test_gradients_are_right():
    classifier, features = make_classifier(), make_features(4).requires_grad_()

    def logits(x, weight, scale):
        return torch.func.functional_call(classifier, {"weight": weight, "scale": scale}, (x,))

    weight = (2 * classifier.weight.detach()).requires_grad_()
    scale = classifier.scale.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(logits, (features, weight, scale))


@pytest.mark.parametrize("shape", [(), (0,), (6,), (2, 3, 4)], ids=str)
def test_any_shape_of_features(shape):
    classifier, features = make_classifier(), make_features(*shape)
    logits = classifier(features)
    assert logits.shape == (*shape, K)
    flat = classifier(features.reshape(-1, C)).reshape(*shape, K)
    torch.testing.assert_close(logits, flat, rtol=0, atol=1e-12)


def test_an_empty_batch_backpropagates():
    classifier = make_classifier()
    classifier(make_features(0)).sum().backward()
    assert torch.equal(classifier.weight.grad, torch.zeros_like(classifier.weight))


def test_initial_weights_are_random_directions():
    """Length 1, mean 0: in C dimensions a coordinate has variance 1 / C."""
    torch.manual_seed(0)
    weight = CosineLinear(64, 2000).weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(2000), rtol=0, atol=1e-5)
    assert abs(weight.mean().item()) < 3e-3
    assert weight.var().item() == pytest.approx(1 / 64, rel=0.02)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive(scale):
    with raises_naming(ValueError, "scale", "> 0", str(scale)):
        CosineLinear(C, K, scale=scale)
