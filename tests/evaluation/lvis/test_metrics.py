# SPDX-License-Identifier: Apache-2.0
"""LVIS's pure metrics on curves and areas that are derived by hand."""

import math

import numpy as np
import pytest

from longtail.evaluation.lvis.metrics import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    RECALLS,
    in_percent,
    mean,
    outside_area_ranges,
    precision_at_recalls,
    summarize,
)


def test_thresholds_recalls_and_ranges_are_lvis_apis():
    np.testing.assert_allclose(
        IOU_THRESHOLDS, [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95], atol=1e-15
    )
    np.testing.assert_allclose(RECALLS, [n / 100 for n in range(101)], atol=1e-15)
    # Objects of up to 32 x 32 pixels are small, of up to 96 x 96 medium.
    assert AREA_RANGES.tolist() == [[0, 1e10], [0, 1024], [1024, 9216], [9216, 1e10]]


@pytest.mark.parametrize(
    ("area", "inside"),
    [
        # all, small, medium, large; an end belongs to both ranges.
        (0, [True, True, False, False]),
        (1023.9, [True, True, False, False]),
        (1024, [True, True, True, False]),
        (1024.1, [True, False, True, False]),
        (9215.9, [True, False, True, False]),
        (9216, [True, False, True, True]),
        (9216.1, [True, False, False, True]),
        (1e10, [True, False, False, True]),
        (1.1e10, [False, False, False, False]),
    ],
)
def test_ends_of_the_area_ranges(area, inside):
    outside = outside_area_ranges(np.array([area, 50.0]))
    assert (~outside[:, 0]).tolist() == inside
    assert (~outside[:, 1]).tolist() == [True, True, False, False]


def curve(right, wrong, total):
    """The curve of one category, from a string of 0 and 1 for each detection."""
    flags = [np.array([[c == "1" for c in text]], bool) for text in (right, wrong)]
    return precision_at_recalls(*flags, np.array([total]))[0]


class TestCurves:
    def test_precision_falls_where_recall_rises(self):
        # Right, wrong, right, wrong of 4: precision 1 to recall 1/4, 2/3 to recall 2/4.
        # Those are the recalls 0..0.25 (26 of them), 0.26..0.50 (25), 0.51..1 (50).
        expected = [1] * 26 + [2 / 3] * 25 + [0] * 50
        np.testing.assert_allclose(curve("1010", "0101", 4), expected, atol=1e-14)

    def test_a_higher_precision_further_on_counts_from_the_start(self):
        # Wrong, right, right of 2: precision 1/2, then 2/3: the envelope is 2/3 everywhere.
        np.testing.assert_allclose(curve("011", "100", 2), [2 / 3] * 101, atol=1e-14)

    def test_only_what_comes_later_counts(self):
        # Right, wrong, wrong, right of 2: 1 to recall 1/2 (51 recalls), 2/4 beyond (50).
        expected = [1] * 51 + [1 / 2] * 50
        np.testing.assert_allclose(curve("1001", "0110", 2), expected, atol=1e-14)

    def test_what_is_neither_right_nor_wrong_does_not_count(self):
        np.testing.assert_allclose(curve("0010", "0000", 1), [1] * 101, atol=1e-14)

    def test_recalls_that_are_not_multiples_of_a_hundredth(self):
        # 1/3 reaches the recalls 0..0.33 (34), 2/3 those to 0.66 (33 more).
        expected = [1] * 34 + [2 / 3] * 33 + [0] * 34
        np.testing.assert_allclose(curve("101", "010", 3), expected, atol=1e-14)

    def test_nothing_right_and_nothing_detected(self):
        assert curve("00", "11", 5).tolist() == [0] * 101
        assert curve("", "", 5).tolist() == [0] * 101

    def test_nothing_to_be_found_is_nan(self):
        assert np.isnan(curve("0", "1", 0)).all()
        assert np.isnan(curve("", "", 0)).all()

    def test_an_annotation_that_is_not_to_be_found_does_not_reach_into_the_curve_before(self):
        # Wrong, right of 1: 1/2. Of the second nothing is to be found, its detection is right.
        right = np.array([[False, True], [True, False]])
        curves = precision_at_recalls(right, ~right, np.array([1, 0]))
        np.testing.assert_allclose(curves[0], [1 / 2] * 101, atol=1e-14)
        assert np.isnan(curves[1]).all()

    def test_curves_are_independent(self):
        right = np.array([[True, False], [False, True]])
        curves = precision_at_recalls(right, ~right, np.array([1, 1]))
        np.testing.assert_allclose(curves, [[1] * 101, [1 / 2] * 101], atol=1e-14)


class TestSummary:
    def precision(self):
        """3 categories: precision t/10 at threshold t; 1; nothing to be found. Few are small."""
        precision = np.full((10, 101, 3, 4), np.nan)
        precision[:, :, 0, 0] = np.arange(10)[:, None] / 10
        precision[:, :, 1, 0] = 1
        precision[:, :, 0, 1] = 0.2  # small
        precision[:, :, 1, 1] = 0.6
        precision[:, :, 1, 3] = 0  # large: one that was not found
        return precision

    def test_by_hand(self):
        groups = {"r": np.array([0]), "c": np.array([1, 2]), "f": np.array([2])}
        summary = summarize(self.precision(), groups)
        assert list(summary) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
        # Category 0 has the mean of 0, 0.1, ..., 0.9, which is 0.45; at 0.75, the sixth, 0.5.
        expected = {"AP": (0.45 + 1) / 2, "AP50": (0 + 1) / 2, "AP75": (0.5 + 1) / 2}
        expected |= {"APs": 0.4, "APl": 0, "APr": 0.45, "APc": 1}
        assert {key: summary[key] for key in expected} == pytest.approx(expected, abs=1e-14)
        assert math.isnan(summary["APm"]) and math.isnan(summary["APf"])

    def test_no_category_in_a_group(self):
        summary = summarize(self.precision(), {"r": np.array([], int)})
        assert math.isnan(summary["APr"])

    def test_mean_and_percent(self):
        assert mean(np.array([1.0, np.nan, 2.0])) == 1.5
        assert math.isnan(mean(np.array([np.nan]))) and math.isnan(mean(np.array([])))
        assert in_percent({"AP": 0.25, "APr": 0.5}, "_fixed") == {"AP_fixed": 25, "APr_fixed": 50}
        assert in_percent({"AP": 0.25}) == {"AP": 25}
