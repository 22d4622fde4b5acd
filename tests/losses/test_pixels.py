# SPDX-License-Identifier: Apache-2.0
"""Losses of maps of pixels against plain loops in float64, and the identities between them."""

import functools
import math

import pytest
import torch
from torch.nn import functional as F

from longtail.losses.cross_entropy import cross_entropy
from longtail.losses.pixels import dice_loss
from tests.references.losses import dice

pixel_cross_entropy = functools.partial(cross_entropy, ignore_label=255)

N, K, H, W = 2, 4, 5, 6
ATOL = 1e-6


def make_batch(seed=0, *, dtype=torch.float32, classes=K):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(N, K, H, W, generator=generator)
    labels = torch.randint(0, classes, (N, H, W), generator=generator)
    labels[torch.rand(N, H, W, generator=generator) < 0.3] = 255
    return logits.to(dtype).requires_grad_(), labels


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def reference_cross_entropy(logits, labels, weight=None, prior=None, ignore=255):
    weight, prior = weight or [1.0] * K, prior or [1.0] * K
    total = total_weight = 0.0
    for n in range(N):
        for y in range(H):
            for x in range(W):
                label = int(labels[n, y, x])
                if label == ignore:
                    continue
                z = logits[n, :, y, x].double().tolist()
                terms = [prior[k] * math.exp(z[k]) for k in range(K)]
                total -= weight[label] * math.log(terms[label] / sum(terms))
                total_weight += weight[label]
    return total / total_weight


OPTIONS = {
    "plain": {},
    "weight": {"class_weight": torch.tensor([0.5, 2.0, 0.0, 1.5])},
    "prior": {"class_prior": torch.tensor([900, 50, 7, 1])},
    "both": {"class_weight": torch.ones(K) / 3, "class_prior": torch.tensor([0.6, 0.2, 0.1, 0.1])},
}
LOSSES = {
    **{
        name: lambda z, y, options=options: pixel_cross_entropy(z, y, **options)
        for name, options in OPTIONS.items()
    },
    "dice": dice_loss,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_cross_entropy_equals_the_formula(options):
    logits, labels = make_batch()
    plain = {key.removeprefix("class_"): value.tolist() for key, value in options.items()}
    expected = reference_cross_entropy(logits, labels, **plain)
    assert pixel_cross_entropy(logits, labels, **options).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_dice_equals_the_formula():
    logits, labels = make_batch()
    assert dice_loss(logits, labels).item() == pytest.approx(dice(logits, labels).item(), abs=ATOL)


def test_dice_of_one_undecided_pixel():
    # p = (1/2, 1/2), label 0: class 0 scores (2/2 + 1) / (1/4 + 1 + 1) = 8/9,
    # class 1 scores (0 + 1) / (1/4 + 0 + 1) = 4/5.
    loss = dice_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    assert loss.item() == pytest.approx(1 - (8 / 9 + 4 / 5) / 2, abs=ATOL)


def test_dice_lies_between_right_and_wrong():
    _, labels = make_batch()
    truth = F.one_hot(labels.where(labels != 255, 0), K).permute(0, 3, 1, 2).float()
    assert dice_loss(100 * truth, labels).item() == pytest.approx(0, abs=ATOL)
    assert 0.5 < dice_loss(-100 * truth, labels).item() <= 1


def test_equal_weights_or_a_uniform_prior_change_nothing():
    logits, labels = make_batch()
    plain = pixel_cross_entropy(logits, labels)
    torch.testing.assert_close(
        plain, F.cross_entropy(logits, labels, ignore_index=255), atol=ATOL, rtol=0
    )
    for options in ({"class_weight": torch.full((K,), 7)}, {"class_prior": torch.full((K,), 7)}):
        loss = pixel_cross_entropy(logits, labels, **options)
        torch.testing.assert_close(loss, plain, atol=ATOL, rtol=0)
        torch.testing.assert_close(
            gradient(loss, logits), gradient(plain, logits), atol=ATOL, rtol=0
        )
        plain = pixel_cross_entropy(logits, labels)


def test_the_scale_of_the_prior_cancels():
    logits, labels = make_batch()
    counts = torch.tensor([15_000_000_000, 3_000_000, 20_000, 1])
    loss = pixel_cross_entropy(logits, labels, class_prior=counts)
    scaled = pixel_cross_entropy(logits, labels, class_prior=counts / counts.sum())
    torch.testing.assert_close(loss, scaled, atol=1e-5, rtol=0)
    assert gradient(loss, logits).isfinite().all()


def test_a_class_without_frequency_leaves_the_denominator():
    logits, labels = make_batch(classes=K - 1)
    prior = torch.tensor([5, 3, 1, 0])
    loss = pixel_cross_entropy(logits, labels, class_prior=prior)
    without = pixel_cross_entropy(logits[:, : K - 1], labels, class_prior=prior[: K - 1])
    torch.testing.assert_close(loss, without, atol=ATOL, rtol=0)
    derivative = gradient(loss, logits)
    assert derivative.isfinite().all()
    assert (derivative[:, K - 1] == 0).all()


@each_loss
def test_ignored_pixels_have_no_influence(loss):
    logits, labels = make_batch()
    changed = torch.where((labels == 255)[:, None], 1e4, logits.detach())
    torch.testing.assert_close(loss(changed, labels), loss(logits, labels), atol=ATOL, rtol=0)
    derivative = gradient(loss(logits, labels), logits)
    assert (derivative.transpose(0, 1)[:, labels == 255] == 0).all()
    assert (derivative.transpose(0, 1)[:, labels != 255] != 0).any()


@each_loss
def test_a_batch_without_valid_pixels_gives_zero_and_backpropagates(loss):
    logits, labels = make_batch()
    value = loss(logits, torch.full_like(labels, 255))
    assert value.item() == 0
    assert (gradient(value, logits) == 0).all()


@each_loss
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_may_have_any_integer_type(loss, dtype):
    logits, labels = make_batch()
    assert torch.equal(loss(logits, labels.to(dtype)), loss(logits, labels))


@each_loss
def test_float64_logits_are_computed_in_float64(loss):
    logits, labels = make_batch(dtype=torch.float64)
    value = loss(logits, labels)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value.float(), loss(logits.float(), labels), atol=ATOL, rtol=0)


def test_another_ignore_label():
    logits, labels = make_batch()
    other = labels.where(labels != 255, -1)
    for loss in (pixel_cross_entropy, dice_loss):
        assert torch.equal(loss(logits, other, ignore_label=-1), loss(logits, labels))


@each_loss
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_summed_in_float32(loss, autocast):
    logits, labels = make_batch(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = loss(logits, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), labels), atol=ATOL, rtol=0)
    assert gradient(value, logits).dtype == torch.bfloat16
