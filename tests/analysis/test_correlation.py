# SPDX-License-Identifier: Apache-2.0
"""Correlation of accuracy and frequency: numpy as reference, and published per-class results."""

import math

import numpy as np
import pytest

from longtail.analysis.correlation import frequency_correlation
from longtail.analysis.published import read_class_results
from longtail.config import tables
from longtail.data.statistics.class_stats import FREQUENCIES


def test_by_hand():
    # Deviations (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6). Ranks 1, 2, 3 and 1, 3, 2: 1 / 2.
    found = frequency_correlation([0.0, 3.1, 2.9], [1, 2, 3])
    assert found["spearman"] == pytest.approx(50) and found["classes"] == 3
    found = frequency_correlation([0.0, 3.0, 3.0], [1, 2, 3])
    assert found["pearson"] == pytest.approx(100 * 3 / math.sqrt(12))


def test_as_numpy_without_classes_that_have_no_value():
    rng = np.random.default_rng(0)
    counts = np.sort(rng.zipf(1.5, 40))[::-1].astype(np.int64)
    accuracy = rng.random(40)
    accuracy[[3, 17]] = np.nan
    known = ~np.isnan(accuracy)
    expected = np.corrcoef(accuracy[known], counts[known])[0, 1]
    found = frequency_correlation(accuracy, counts)
    assert found["pearson"] == pytest.approx(100 * expected) and found["classes"] == 38


def test_none_where_there_is_none():
    for accuracy, counts in (([50.0, 50.0], [1, 2]), ([1.0, 2.0], [3, 3]), ([1.0], [1]), ([], [])):
        found = frequency_correlation(accuracy, counts)
        assert math.isnan(found["pearson"]) and math.isnan(found["spearman"])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        frequency_correlation([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("run", "pixel", "region"),
    [("R-50", 41.9, 53.0), ("R-101", 40.0, 49.8), ("S-101", 32.9, 35.2)],
)
def test_published_results_with_packaged_counts(run, pixel, region):
    """Regions correlate more than pixels, as in Table 2 of the Region Rebalance paper."""
    [results] = read_class_results()
    accuracy = results.runs[run]["Acc"]
    for kind, expected in (("pixel", pixel), ("image", region)):
        counts = np.loadtxt(FREQUENCIES / f"{results.trained_on}_{kind}_count.txt")
        found = frequency_correlation(accuracy, counts)
        assert found["pearson"] == pytest.approx(expected, abs=0.05)
        assert found["classes"] == 150


def test_published_results_average_to_the_published_means():
    [results] = read_class_results()
    rows = {row.label: row for row in tables.read_tables()["disalign_release_ade20k"].rows}
    assert set(results.runs) == {"R-50", "R-101", "S-101"}
    for run, metrics in results.runs.items():
        published = rows[f"FCN-{run.replace('-', '')}-D8-160K"].metrics
        assert metrics["IoU"].mean() == pytest.approx(float(published["mIoU"]), abs=0.006)
        assert metrics["Acc"].mean() == pytest.approx(float(published["mAcc"]), abs=0.006)
