# SPDX-License-Identifier: Apache-2.0
"""The one cross-entropy against plain Python, values and gradients, on samples and on maps."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from longtail.losses import CrossEntropy, PixelLoss
from longtail.losses.cross_entropy import cross_entropy
from tests.references.losses import weighted_balanced_cross_entropy

K, IGNORE = 5, 250
WEIGHT = [0.25, 3.0, 1.0, 0.0, 2.0]
PRIOR = [900.0, 40.0, 7.0, 1.0, 0.5]
SHAPES = {"samples": (24,), "maps": (2, 3, 4)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
each_option = pytest.mark.parametrize(
    ("weight", "prior", "weighted_mean"),
    list(itertools.product([None, WEIGHT], [None, PRIOR], [True, False])),
)


def make_batch(shape, *, ignore: int | None = IGNORE, dtype=torch.float64):
    """Logits (S, K) or (N, K, H, W) with gradient, and labels of which some are left out."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape[0], K, *shape[1:], generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, shape, generator=generator)
    if ignore is not None:
        labels[torch.rand(shape, generator=generator) < 0.3] = ignore
    return logits.to(dtype).requires_grad_(), labels


def as_rows(logits):
    """(S, K) or (N, K, H, W) to a list of K numbers for each sample."""
    return logits.detach().movedim(1, -1).reshape(-1, K).tolist()


def tensor(values):
    return None if values is None else torch.tensor(values)


@each_shape
@each_option
@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_it_is_the_formula(shape, weight, prior, weighted_mean, ignore):
    logits, labels = make_batch(shape, ignore=ignore)
    left_out = {} if ignore is None else {"ignore_label": ignore}
    loss = cross_entropy(
        logits,
        labels,
        class_weight=tensor(weight),
        class_prior=tensor(prior),
        weighted_mean=weighted_mean,
        **left_out,
    )
    expected, derivatives = weighted_balanced_cross_entropy(
        as_rows(logits),
        labels.flatten().tolist(),
        weight=weight,
        prior=prior,
        ignore=ignore,
        weighted_mean=weighted_mean,
    )
    assert loss.shape == () and loss.item() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(
        torch.tensor(as_rows(gradient)), torch.tensor(derivatives), atol=1e-7, rtol=0
    )


@each_option
def test_two_samples_by_hand(weight, prior, weighted_mean):
    """Logits of zero: p = F_y / sum F, so that only weights, prior and divisor are left."""
    loss = cross_entropy(
        torch.zeros(2, 2, dtype=torch.float64),
        torch.tensor([0, 1]),
        class_weight=None if weight is None else torch.tensor([1.0, 3.0]),
        class_prior=None if prior is None else torch.tensor([3.0, 1.0]),
        weighted_mean=weighted_mean,
    )
    log_2, log_4 = 0.6931471805599453, 1.3862943611198906
    # -log p of the two samples: 1/2 and 1/2, or 3/4 and 1/4.
    losses = (log_2, log_2) if prior is None else (0.2876820724517809, log_4)
    w = 1 if weight is None else 3
    total = losses[0] + w * losses[1]
    assert loss.item() == pytest.approx(total / ((1 + w) if weighted_mean else 2), abs=1e-15)


@each_shape
def test_no_label_is_left_out_unless_it_is_named(shape):
    """255 stands for pixels without label, and is a class of images."""
    logits = torch.zeros(shape[0], 300, *shape[1:])
    labels = torch.full(shape, 255)
    assert cross_entropy(logits, labels).item() == pytest.approx(5.703782474656201, abs=1e-5)
    assert cross_entropy(logits, labels, ignore_label=255).item() == 0


@each_shape
@each_option
def test_no_sample_gives_zero_and_backpropagates(shape, weight, prior, weighted_mean):
    logits, labels = make_batch(shape)
    options = {"class_weight": tensor(weight), "class_prior": tensor(prior)}
    for z, y in (
        (logits, torch.full_like(labels, IGNORE)),
        (logits[:0], labels[:0]),
    ):
        loss = cross_entropy(z, y, ignore_label=IGNORE, weighted_mean=weighted_mean, **options)
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, logits)[0] == 0).all()


@each_shape
@pytest.mark.parametrize(
    ("dtype", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_it_is_computed_in_float32_at_least(shape, dtype, computed):
    logits, labels = make_batch(shape, dtype=dtype)
    options = {"class_weight": tensor(WEIGHT), "class_prior": tensor(PRIOR)}
    loss = cross_entropy(logits, labels, ignore_label=IGNORE, **options)
    assert loss.dtype == computed
    expected, _ = weighted_balanced_cross_entropy(
        as_rows(logits), labels.flatten().tolist(), weight=WEIGHT, prior=PRIOR, ignore=IGNORE
    )
    atol = 1e-12 if computed == torch.float64 else 1e-5
    assert loss.item() == pytest.approx(expected, abs=atol)


@pytest.mark.parametrize("options", [{}, {"class_weight": torch.tensor(WEIGHT)}])
def test_plain_logits_of_pixels_are_not_copied(monkeypatch, options):
    """They are by far the largest tensor of a training step."""
    read = []
    original = F.cross_entropy

    def record(logits, *args, **kwargs):
        read.append(logits.data_ptr())
        return original(logits, *args, **kwargs)

    monkeypatch.setattr(F, "cross_entropy", record)
    logits, labels = make_batch((2, 3, 4), dtype=torch.float32)
    PixelLoss(CrossEntropy(K, **options), IGNORE)(logits, labels)
    assert read == [logits.data_ptr()]
