# SPDX-License-Identifier: Apache-2.0
"""Calibration errors by hand, and on generated predictions whose error is known."""

import math

import numpy as np
import pytest

from longtail.evaluation.calibration import brier, class_errors, reliability
from tests.messages import raises_naming


def test_by_hand():
    """Bins (0, 0.5] and (0.5, 1]: mean scores 0.3 and 0.8, right 1/3 and 1/2."""
    found = reliability([0.1, 0.3, 0.5, 0.7, 0.9], [False, False, True, True, False], bins=2)
    assert found.count.tolist() == [3, 2]
    np.testing.assert_allclose(found.score, [0.3, 0.8], atol=1e-15)
    np.testing.assert_allclose(found.precision, [1 / 3, 1 / 2], atol=1e-15)
    assert found.error == pytest.approx(3 / 5 * (1 / 3 - 0.3) + 2 / 5 * 0.3)
    assert found.gap == pytest.approx(3 / 5 * (0.3 - 1 / 3) + 2 / 5 * 0.3)
    assert brier([0.1, 0.9], [False, False]) == pytest.approx((0.01 + 0.81) / 2)


def transcribed(scores, hits, bins):
    total = 0.0
    for b in range(bins):
        inside = [
            (s, h)
            for s, h in zip(scores, hits, strict=True)
            if b / bins < s <= (b + 1) / bins or (s == 0 and b == 0)
        ]
        if inside:
            gap = sum(h for _, h in inside) / len(inside) - sum(s for s, _ in inside) / len(inside)
            total += len(inside) / len(scores) * abs(gap)
    return total


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_ece_is_the_formula(bins):
    generator = np.random.default_rng(0)
    scores, hits = generator.random(300), generator.random(300) < 0.4
    scores[:3] = 0, 1, 1 / 7
    assert reliability(scores, hits, bins).error == pytest.approx(
        transcribed(scores.tolist(), hits.tolist(), bins), abs=1e-12
    )


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_calibrated_set_has_no_more_than_the_error_of_drawing(size):
    """In each bin |mean hit - mean score| has the mean <= sqrt(1 / (4 n_b)), so that E[ECE] <=
    sum n_b / N / (2 sqrt(n_b)) <= sqrt(B / N) / 2 by Cauchy and Schwarz; it differs from its mean
    by t with a probability below exp(-2 N t^2) (McDiarmid, each hit moves it by 1 / N)."""
    generator = np.random.default_rng(1)
    scores = generator.random(size)
    hits = generator.random(size) < scores
    bound = math.sqrt(15 / size) / 2 + math.sqrt(math.log(1e6) / (2 * size))
    assert reliability(scores, hits).error < bound
    # As many predictions that are 0.2 too sure are told from it.
    assert reliability(np.minimum(scores + 0.2, 1), hits).error > 0.15


def test_errors_of_classes_do_not_make_up_for_each_other():
    """One class 0.3 too sure, the other one 0.3 not sure enough: together 0."""
    scores, hits = np.full(200, 0.5), np.zeros(200, bool)
    hits[:20], hits[100:180] = True, True
    assert reliability(scores, hits).error == pytest.approx(0, abs=1e-12)
    found = class_errors(np.repeat([0, 2], 100), scores, hits, 4)
    np.testing.assert_allclose(found, [0.3, np.nan, 0.3, np.nan], atol=1e-12)


def test_nothing_and_bad_input():
    assert math.isnan(reliability([], []).error) and math.isnan(brier([], []))
    with raises_naming(ValueError, "0..1"):
        reliability([1.2], [True])
    with raises_naming(ValueError, "0..1"):
        reliability([math.nan], [True])
    with pytest.raises(ValueError, match="1 bin"):
        reliability([0.2], [True], 0)
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        reliability([0.2, 0.3], [True])
