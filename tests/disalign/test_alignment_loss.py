# SPDX-License-Identifier: Apache-2.0
"""The alignment loss against the printed formula in plain Python."""

import math

import pytest
import torch
import torch.nn.functional as F
from disalign.functional import alignment_loss

K = 6


def make_samples(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(11, K, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, K, (11,), generator=generator)
    weights = 0.1 + 3 * torch.rand(K, generator=generator, dtype=torch.float64)
    return logits, classes, weights


def printed_loss(logits, classes, weights, *, weighted_mean) -> float:
    """Eq. 9 and 10 in plain Python; the reference distribution is w_y at y, up to its constant."""
    total = norm = 0.0
    for row, y in zip(logits.tolist(), classes.tolist(), strict=True):
        log_p = row[y] - math.log(sum(math.exp(value) for value in row))
        total -= weights[y].item() * log_p
        norm += weights[y].item() if weighted_mean else 1
    return total / norm


@pytest.mark.parametrize("weighted_mean", [True, False])
def test_the_loss_is_the_printed_one(weighted_mean):
    logits, classes, weights = make_samples()
    loss = alignment_loss(logits, classes, weights, weighted_mean=weighted_mean)
    expected = printed_loss(logits, classes, weights, weighted_mean=weighted_mean)
    assert loss.shape == () and loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_its_scale_is_that_of_the_weights_in_the_plain_mean_alone():
    logits, classes, weights = make_samples()
    for weighted_mean, factor in ((True, 1), (False, 7)):
        loss, scaled = (
            alignment_loss(logits, classes, w, weighted_mean=weighted_mean)
            for w in (weights, 7 * weights)
        )
        assert scaled.item() == pytest.approx(factor * loss.item(), abs=1e-12)


@pytest.mark.parametrize("weighted_mean", [True, False])
def test_equal_weights_are_plain_cross_entropy(weighted_mean):
    logits, classes, _ = make_samples()
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    ones = torch.ones(K, dtype=torch.float64)
    ours = alignment_loss(leaves[0], classes, ones, weighted_mean=weighted_mean)
    plain = F.cross_entropy(leaves[1], classes)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
    gradients = [torch.autograd.grad(v, x)[0] for v, x in zip((ours, plain), leaves, strict=True)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted_mean", [True, False])
def test_its_minimum_is_the_reference_distribution(weighted_mean):
    """Samples that look alike: the best prediction is p_k proportional to w_k n_k (Eq. 9)."""
    _, classes, weights = make_samples()
    mass = weights * classes.bincount(minlength=K)
    keep = mass > 0
    best = torch.full((K,), -40.0, dtype=torch.float64)
    best[keep] = (mass[keep] / mass.sum()).log()
    best.requires_grad_()
    logits = best.expand(len(classes), K)
    loss = alignment_loss(logits, classes, weights, weighted_mean=weighted_mean)
    (gradient,) = torch.autograd.grad(loss, best)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted_mean", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_samples_give_zero_and_backpropagate(weighted_mean, dtype):
    logits = torch.zeros(0, K, dtype=dtype, requires_grad=True)
    alpha = torch.ones(K, requires_grad=True)
    classes = torch.zeros(0, dtype=torch.long)
    loss = alignment_loss(logits * alpha, classes, torch.ones(K), weighted_mean=weighted_mean)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(alpha.grad, torch.zeros(K)) and logits.grad.shape == (0, K)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, classes, weights = make_samples()
    half = logits.to(dtype).requires_grad_()
    loss = alignment_loss(half, classes, weights)
    assert loss.dtype == torch.float32
    expected = printed_loss(half.detach().double(), classes, weights, weighted_mean=True)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert half.grad.dtype == dtype and half.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, K), (4,), (K + 1,)), r"logits must have shape \(S, K\).*got \(4, 6\) and \(7,\)"),
        (((4, K), (4,), ()), "class_weights"),
        (((K,), (), (K,)), "logits must have shape"),
        (((2, K, 3), (2, 3), (K,)), "logits must have shape"),
        (((4, K), (3,), (K,)), r"classes must have shape \(4,\), got \(3,\)"),
        (((4, K), (4, K), (K,)), r"classes must have shape \(4,\), got \(4, 6\)"),
        (((0, K), (3,), (K,)), r"classes must have shape \(0,\), got \(3,\)"),
    ],
)
def test_samples_that_do_not_belong_together(shapes, message):
    logits, classes, weights = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message) as info:
        alignment_loss(logits, classes, weights)
    assert "\n" not in str(info.value)
