# SPDX-License-Identifier: Apache-2.0
"""Re-weighting and calibration against the printed formulas in plain Python."""

import math

import pytest
import torch
from disalign.functional import calibrate_logits, generalized_reweight

from tests.references.methods import printed_weights

COUNTS = [50_000, 1, 300, 7, 7, 12_345]
K = 6


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8, 1.0, 1.2, 1.5, 3.0])
@pytest.mark.parametrize("counts", [COUNTS, [5], [3, 3, 3], [0.25, 0.5, 1e-3]], ids=str)
def test_weights_are_equation_11_with_mean_1(counts, rho):
    weights = generalized_reweight(torch.tensor(counts), rho)
    assert weights.dtype == torch.float64 and weights.shape == (len(counts),)
    # Relative: the weights span 14 orders of magnitude. float32 counts of the last case are exact
    # to 1e-7 alone.
    rtol = 1e-6 if isinstance(counts[0], float) else 1e-12
    expected = torch.tensor(printed_weights(counts, rho), dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=rtol, atol=0)
    assert weights.mean().item() == pytest.approx(1, abs=1e-14)


def test_rho_0_is_no_reweighting_and_rho_1_weighs_all_classes_alike():
    counts = torch.tensor(COUNTS)
    assert torch.equal(generalized_reweight(counts, 0), torch.ones(K, dtype=torch.float64))
    mass = generalized_reweight(counts, 1) * counts
    torch.testing.assert_close(mass, mass[0].expand(K), rtol=1e-13, atol=0)
    assert torch.equal(generalized_reweight(torch.tensor([9]), 2.5), torch.ones(1).double())


@pytest.mark.parametrize("rho", [0.3, 0.8, 1.5])
def test_rarer_classes_weigh_more_and_the_more_so_the_larger_rho(rho):
    weights = generalized_reweight(torch.tensor(COUNTS), rho)
    order = torch.tensor(COUNTS).argsort(descending=True, stable=True)
    steps = weights[order].diff()
    assert (steps >= 0).all() and (steps > 0).sum() == K - 2  # two classes have the same count
    assert weights[1] / weights[0] == pytest.approx(50_000**rho, rel=1e-12)


def test_the_scale_of_the_counts_cancels():
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    for scale in (1e-9, 0.5, 1e12):
        torch.testing.assert_close(
            generalized_reweight(counts * scale, 0.8),
            generalized_reweight(counts, 0.8),
            rtol=1e-12,
            atol=0,
        )


@pytest.mark.parametrize("rho", [0, 0.8, 50, 1e4, 1e300])
def test_huge_counts_and_exponents_stay_finite(rho):
    weights = generalized_reweight(torch.tensor([1, 2**40, 2**62]), rho)
    assert weights.isfinite().all() and (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(3, abs=1e-12)


def test_counts_of_any_numeric_type():
    expected = generalized_reweight(torch.tensor(COUNTS), 0.8)
    for dtype in (torch.int32, torch.float32, torch.float64):
        assert torch.equal(generalized_reweight(torch.tensor(COUNTS, dtype=dtype), 0.8), expected)


def test_a_class_that_does_not_occur():
    counts = torch.tensor([4, 0, 9, 0])
    names = ["cat", "axolotl", "dog", "okapi"]
    with pytest.raises(ValueError, match=r"class 1 \(axolotl\) and 1 more does not occur") as info:
        generalized_reweight(counts, 0.8, class_names=names)
    assert "\n" not in str(info.value) and "CLAMP_ZERO_COUNTS True" in str(info.value)
    with pytest.raises(ValueError, match=r"^class 1 does not occur"):
        generalized_reweight(torch.tensor([4, 0]), 0)
    clamped = generalized_reweight(counts, 0.8, class_names=names, clamp_zero_counts=True)
    assert torch.equal(clamped, generalized_reweight(torch.tensor([4, 1, 9, 1]), 0.8))
    # Clamping changes nothing else: a fraction of a sample stays one.
    fractions = torch.tensor([0.25, 4.0])
    clamped = generalized_reweight(fractions, 0.8, clamp_zero_counts=True)
    assert torch.equal(clamped, generalized_reweight(fractions, 0.8))


@pytest.mark.parametrize(
    ("counts", "rho", "message"),
    [
        ([1.0, -2.0], 0.8, "class_counts must be finite and >= 0, got -2"),
        ([1.0, math.nan], 0.8, "class_counts must be finite and >= 0, got nan"),
        ([1.0, math.inf], 0.0, "class_counts must be finite and >= 0, got inf"),
        ([[1.0, 2.0]], 0.8, r"shape \(K,\), got \(1, 2\)"),
        (3.0, 0.8, r"shape \(K,\), got \(\)"),
        ([], 0.8, r"shape \(K,\), got \(0,\)"),
        ([1.0, 2.0], -0.1, "rho must be finite and >= 0, got -0.1"),
        ([1.0, 2.0], math.nan, "rho must be finite and >= 0, got nan"),
        ([1.0, 2.0], math.inf, "rho must be finite and >= 0, got inf"),
    ],
)
@pytest.mark.parametrize("clamp", [False, True])
def test_bad_counts_and_exponents(counts, rho, message, clamp):
    with pytest.raises(ValueError, match=message) as info:
        generalized_reweight(torch.tensor(counts), rho, clamp_zero_counts=clamp)
    assert "\n" not in str(info.value)


def printed_calibration(z, alpha, beta, sigma):
    """Eq. 5 as it is printed."""
    return sigma * (alpha * z + beta) + (1 - sigma) * z


def make_calibration(shape: tuple[int, ...], dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=dtype)

    return 5 * draw(*shape), 1 + draw(shape[-1]), draw(shape[-1]), draw(*shape[:-1], 1).sigmoid()


# An image classifier's, a detector's and a segmentor's logits.
SHAPES = [(K,), (4, K), (0, K), (2, 3, 4, K)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_calibration_is_equation_5(shape):
    z, alpha, beta, sigma = make_calibration(shape)
    calibrated = calibrate_logits(z, alpha, beta, sigma)
    assert calibrated.shape == shape
    expected = printed_calibration(z, alpha, beta, sigma)
    torch.testing.assert_close(calibrated, expected, rtol=0, atol=1e-12)
    # And number by number, in plain Python.
    for row, s, row_expected in zip(
        calibrated.reshape(-1, K).tolist(),
        sigma.flatten().tolist(),
        z.reshape(-1, K).tolist(),
        strict=True,
    ):
        for j in range(K):
            value = (1 - s + s * alpha[j].item()) * row_expected[j] + s * beta[j].item()
            assert row[j] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_alpha_1_and_beta_0_are_the_identity_bit_for_bit(dtype):
    ones, zeros = torch.ones(K), torch.zeros(K)
    generator = torch.Generator().manual_seed(1)
    # Magnitudes from 1e-4 to 1e4, any confidence.
    z = torch.randn(20_000, K, generator=generator) * 10 ** (
        8 * torch.rand(20_000, 1, generator=generator) - 4
    )
    z = z.to(dtype)
    sigma = torch.rand(20_000, 1, generator=generator)
    sigma[:4, 0] = torch.tensor([0, 1, 1e-30, 0.5])
    wider = torch.promote_types(dtype, torch.float32)
    for confidence in (sigma, sigma.to(dtype), 1.0, 0.3):
        calibrated = calibrate_logits(z, ones, zeros, confidence)
        assert calibrated.dtype == wider and torch.equal(calibrated, z.to(wider))


def test_without_confidence_it_is_a_scale_and_a_shift():
    z, alpha, beta, _ = make_calibration((4, K))
    expected = alpha * z + beta
    for one in (1.0, torch.ones(4, 1, dtype=torch.float64)):
        torch.testing.assert_close(
            calibrate_logits(z, alpha, beta, one), expected, rtol=0, atol=1e-12
        )
    assert torch.equal(calibrate_logits(z, alpha, beta, 0.0), z)


def test_it_has_the_gradients_of_the_printed_form():
    z, *parameters = make_calibration((2, 3, K))
    direction = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(9))
    gradients = []
    for function in (calibrate_logits, printed_calibration):
        leaves = [t.clone().requires_grad_() for t in (z, *parameters)]
        gradients.append(torch.autograd.grad((function(*leaves) * direction).sum(), leaves))
    for ours, printed in zip(*gradients, strict=True):
        assert printed.abs().max() > 0.1
        torch.testing.assert_close(ours, printed, rtol=0, atol=1e-12)


def test_the_result_has_the_wider_type():
    z, alpha, beta, sigma = make_calibration((4, K), torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        calibrated = calibrate_logits(z.to(dtype), alpha, beta, sigma.to(dtype))
        assert calibrated.dtype == torch.float32


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, K), (K - 1,), (K,), (4, 1)), r"alpha and beta must have shape \(6,\)"),
        (((4, K), (K,), (K + 1,), (4, 1)), r"got \(6,\) and \(7,\)"),
        # These would be broadcast, to something else.
        (((4, K), (1,), (K,), (4, 1)), "alpha and beta must have shape"),
        (((4, K), (4, K), (K,), (4, 1)), "alpha and beta must have shape"),
        (((4, K), (K,), (K,), (4,)), r"confidence must have shape \(4, 1\)"),
        (((K, K), (K,), (K,), (K,)), r"confidence must have shape \(6, 1\)"),
        (((4, K), (K,), (K,), (1, 1)), r"confidence must have shape \(4, 1\)"),
        (((4, K), (K,), (K,), (4, K)), r"confidence must have shape \(4, 1\)"),
        (((2, 3, 4, K), (K,), (K,), (2, 1, 3, 4)), r"confidence must have shape \(2, 3, 4, 1\)"),
    ],
)
def test_shapes_that_do_not_belong_together(shapes, message):
    with pytest.raises(ValueError, match=message) as info:
        calibrate_logits(*(torch.ones(shape) for shape in shapes))
    assert "\n" not in str(info.value)
