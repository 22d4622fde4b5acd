# SPDX-License-Identifier: Apache-2.0
"""Means, deviations and differences over seeds, against scipy's own tests and by hand."""

import numpy as np
import pytest
import scipy.stats

from longtail.analysis.statistics import common_metrics, difference, spread

FIRST, SECOND = [52.0, 54.0, 53.0], [50.0, 51.0, 49.0]


def test_spread_by_hand():
    # Deviations from 3: -2, 0, 2; (4 + 0 + 4) / (3 - 1) = 4.
    found = spread([1.0, 3.0, 5.0])
    assert (found.mean, found.deviation, found.count) == (3, 2, 3)


def test_one_run_has_no_deviation():
    found = spread([7.0])
    assert found.mean == 7 and np.isnan(found.deviation)
    for paired in (True, False):
        found = difference([7.0], [5.0], paired=paired)
        assert found.mean == 2 and np.isnan([found.error, found.low, found.high]).all()


def test_a_run_without_value_leaves_none():
    assert np.isnan(spread([1.0, np.nan]).mean)
    assert np.isnan(difference([1.0, np.nan], [1.0, 2.0], paired=True).mean)


def test_difference_of_pairs_by_hand():
    # Differences 2, 3, 4: mean 3, deviation 1, error 1 / sqrt(3); t(0.975, 2) = 4.3027.
    found = difference(FIRST, SECOND, paired=True)
    assert found.mean == pytest.approx(3)
    assert found.error == pytest.approx(1 / np.sqrt(3))
    assert found.high - found.mean == pytest.approx(4.3027 / np.sqrt(3), abs=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


@pytest.mark.parametrize("seed", range(4))
def test_intervals_are_those_of_scipys_tests(seed):
    generator = np.random.default_rng(seed)
    first = generator.normal(3, 1, (5, 2))
    second = generator.normal(0, 4, (5, 2))
    for paired in (True, False):
        if paired:
            reference = scipy.stats.ttest_rel(first, second)
        else:
            reference = scipy.stats.ttest_ind(first, second[:3], equal_var=False)
        found = difference(first, second if paired else second[:3], paired=paired, confidence=0.9)
        interval = reference.confidence_interval(0.9)
        np.testing.assert_allclose(found.low, interval.low)
        np.testing.assert_allclose(found.high, interval.high)
        np.testing.assert_allclose(found.mean / found.error, reference.statistic)


def test_equal_runs_leave_no_uncertainty():
    for paired in (True, False):
        found = difference([2.0, 2.0], [1.0, 1.0], paired=paired)
        assert (found.mean, found.error, found.low, found.high) == (1, 0, 1, 1)


def test_paired_or_not_changes_the_error_alone():
    pairs = difference(FIRST, SECOND, paired=True)
    groups = difference(FIRST, SECOND, paired=False)
    assert pairs.mean == groups.mean
    # Variances 1 and 1 of three each.
    assert groups.error == pytest.approx(np.sqrt(2 / 3))
    assert pairs.error < groups.error


def test_metrics_that_all_runs_have():
    assert common_metrics([{"b": 1.0, "a": 1.0}, {"a": 2.0, "c": 3.0, "b": 2.0}]) == ["b", "a"]


def test_no_run_and_pairs_that_lack_a_partner_are_refused():
    with pytest.raises(ValueError, match="no run"):
        spread([])
    with pytest.raises(ValueError, match="3 and 2"):
        difference(FIRST, SECOND[:2], paired=True)
