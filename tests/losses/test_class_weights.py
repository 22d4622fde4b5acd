# SPDX-License-Identifier: Apache-2.0
"""Class weights against numbers by hand and plain Python, and their limits."""

import pytest
import torch

from longtail.losses.class_weights import effective_number_weights, inverse_frequency_weights

ATOL = 1e-6


def test_inverse_frequency_weights():
    # 1/n = 1/2, 1/4, 1/8 with mean 7/24 over the classes that occur.
    weights = inverse_frequency_weights(torch.tensor([2, 4, 0, 8]))
    expected = torch.tensor([12 / 7, 6 / 7, 0, 3 / 7])
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, expected, atol=ATOL, rtol=0)


def test_inverse_frequency_weights_of_real_counts_are_finite():
    weights = inverse_frequency_weights(torch.tensor([10**12, 1, 0]))
    assert weights.isfinite().all()
    assert weights[0] > 0


def test_inverse_frequency_weights_need_a_count():
    with pytest.raises(ValueError, match="class_counts must have a positive count"):
        inverse_frequency_weights(torch.zeros(3))


def test_effective_number_weights():
    # beta = 1/2: 1 - beta^n = 1/2, 3/4, 7/8; the inverses 2, 4/3, 8/7 have mean 94/63.
    weights = effective_number_weights(torch.tensor([1, 2, 0, 3]), 0.5)
    expected = [126 / 94, 84 / 94, 0, 72 / 94]
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)
    assert weights.dtype == torch.float32


def test_limits_of_the_effective_number():
    counts = torch.tensor([1000, 50, 2, 0])
    none = effective_number_weights(counts, 0.0)
    assert none.tolist() == [1, 1, 1, 0]
    torch.testing.assert_close(none, inverse_frequency_weights(counts, 0.0))
    torch.testing.assert_close(
        effective_number_weights(counts, 1 - 1e-12), inverse_frequency_weights(counts)
    )
    assert effective_number_weights(torch.tensor([10**12, 1]), 0.9999).isfinite().all()


def test_the_exponent_of_inverse_frequency():
    # 1 / sqrt(n) = 1, 1/2, 1/4 with mean 7/12.
    weights = inverse_frequency_weights(torch.tensor([1, 4, 16, 0]), 0.5)
    assert weights.tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7, 0], abs=1e-6)


def test_weights_need_a_count():
    with pytest.raises(ValueError, match="class_counts must have a positive count"):
        effective_number_weights(torch.zeros(3), 0.9)
