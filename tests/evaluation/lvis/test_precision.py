# SPDX-License-Identifier: Apache-2.0
"""From matches to AP in cases by hand: counts, limits, groups, and detections ranked together."""

import math

import numpy as np
import pytest

from longtail.evaluation.lvis import matches as matches_module
from longtail.evaluation.lvis import precision as precision_module
from longtail.evaluation.lvis.matches import sort_matches
from longtail.evaluation.lvis.precision import (
    category_precision,
    compute_metrics,
    count_ground_truth,
    pooled_precision,
)
from tests.evaluation.lvis.by_hand import annotations, ground_truth, matches

BOX = [0, 0, 20, 20]  # small


def test_annotations_to_be_found():
    """By category: in all, small, medium and large; an end of a range is in both."""
    images = [
        ground_truth([(0, BOX, False), (0, [0, 0, 32, 32], False), (0, [0, 0, 96, 96], False)]),
        ground_truth([(2, [0, 0, 100, 100], False), (0, BOX, True), (2, [0, 0, 9e4, 2e5], False)]),
        ground_truth(negative=[1]),
    ]
    # 9e4 x 2e5 is larger than 1e10: in no range.
    assert count_ground_truth(images, 3).tolist() == [[3, 2, 2, 1], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert count_ground_truth([], 2).tolist() == [[0] * 4] * 2


# Category 0 (two annotations): right, wrong, right: 1 to recall 1/2 (51 recalls), 2/3 beyond (50).
# Category 2 (one annotation): wrong, right: 1/2. Category 1 has none.
ROWS = [
    (0, 0, 0.9, True, "right"),
    (1, 0, 0.7, True, "wrong"),
    (1, 0, 0.3, True, "right"),
    (0, 2, 0.8, True, "wrong"),
    (1, 2, 0.4, True, "right"),
    (1, 1, 0.6, True, "wrong"),
]
NUM_GT = np.array([[2, 2, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
CURVES = {0: [1] * 51 + [2 / 3] * 50, 2: [1 / 2] * 101}
AP = {0: (51 + 50 * 2 / 3) / 101, 2: 1 / 2}


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_curves_of_each_category(monkeypatch, at_once):
    monkeypatch.setattr(precision_module, "DETECTIONS_AT_ONCE", at_once)
    ordered = sort_matches(matches(ROWS))
    precision = category_precision(ordered, "bbox", NUM_GT, np.ones(6, bool))
    assert precision.shape == (10, 101, 3, 4)
    for area in (0, 1):
        for category, expected in CURVES.items():
            for threshold in range(10):
                found = precision[threshold, :, category, area]
                np.testing.assert_allclose(found, expected, atol=1e-14)
    assert np.isnan(precision[:, :, 1]).all() and np.isnan(precision[..., 2:]).all()


def test_only_the_chosen_detections_count():
    ordered = sort_matches(matches(ROWS))
    chosen = np.array([True, False, True, False, False, True])  # without the wrong ones
    precision = category_precision(ordered, "bbox", NUM_GT, chosen)
    np.testing.assert_allclose(precision[0, :, 0, 0], 1, atol=1e-14)
    np.testing.assert_allclose(precision[0, :, 2, 0], 1, atol=1e-14)


def test_detections_ranked_together():
    """0.9 right, 0.8 wrong, 0.7 wrong, 0.4 right, 0.3 right, of three annotations.

    Precision 1 to recall 1/3 (34 recalls); then 2/4 and 3/5, of which the envelope is 3/5 (67).
    """
    ordered = sort_matches(matches(ROWS))
    pooled = pooled_precision(ordered, "bbox", NUM_GT, np.ones(6, bool), np.array([0, 2]))
    assert pooled.shape == (10, 101)
    np.testing.assert_allclose(pooled, [[1] * 34 + [3 / 5] * 67] * 10, atol=1e-14)
    # With category 1, whose detection at 0.6 is wrong: 2/5 and 3/6.
    pooled = pooled_precision(ordered, "bbox", NUM_GT, np.ones(6, bool), np.array([0, 1, 2]))
    np.testing.assert_allclose(pooled[3], [1] * 34 + [1 / 2] * 67, atol=1e-14)


def test_equal_scores_are_ranked_by_image_and_then_by_category():
    rows = [
        (1, 0, 0.5, True, "right"),
        (0, 1, 0.5, True, "wrong"),
        (1, 2, 0.5, True, "wrong"),
    ]
    num_gt = np.array([[1, 1, 0, 0]] + [[0] * 4] * 2)
    ordered = sort_matches(matches(rows))
    everything = np.ones(3, bool)
    # Image 0 first: wrong, right, wrong. Without its category: right, wrong.
    for categories, expected in (([0, 1, 2], 1 / 2), ([0, 2], 1)):
        pooled = pooled_precision(ordered, "bbox", num_gt, everything, np.array(categories))
        np.testing.assert_allclose(pooled, expected, atol=1e-14)


def test_each_threshold_has_its_own_bit():
    """A detection that is right up to IoU 0.8 (7 thresholds), in other bytes than that of 0.5."""
    some = matches([(0, 0, 0.9, True, "right")])
    flags = np.zeros((4, 10, 1), bool)
    flags[:, :7] = True
    some.true_positive["bbox"][:] = matches_module.pack_bits(flags)
    some.false_positive["bbox"][:] = matches_module.pack_bits(~flags)
    num_gt = np.array([[1, 1, 0, 0]])
    expected = [1] * 7 + [0] * 3
    pooled = pooled_precision(some, "bbox", num_gt, np.ones(1, bool), np.array([0]))
    np.testing.assert_allclose(pooled[:, 50], expected, atol=1e-14)
    precision = category_precision(some, "bbox", num_gt, np.ones(1, bool))
    np.testing.assert_allclose(precision[:, 50, 0, 0], expected, atol=1e-14)


def scene():
    """The ground truth of ``ROWS``: categories 0 (rare), 1 (common) and 2 (frequent)."""
    images = [
        ground_truth([(0, BOX, False)], negative=[1, 2]),
        ground_truth([(0, BOX, False), (2, BOX, False)], negative=[1]),
    ]
    return annotations(images)


def test_all_modes():
    metrics, curves = compute_metrics(
        matches(ROWS[::-1]), scene(), ["bbox"], ("standard", "fixed", "pool")
    )
    given = metrics["bbox"]
    for ending in ("", "_fixed"):
        assert given[f"AP{ending}"] == pytest.approx(100 * (AP[0] + AP[2]) / 2, abs=1e-10)
        assert given[f"APs{ending}"] == pytest.approx(100 * (AP[0] + AP[2]) / 2, abs=1e-10)
        assert given[f"APr{ending}"] == pytest.approx(100 * AP[0], abs=1e-10)
        assert given[f"APf{ending}"] == pytest.approx(50, abs=1e-10)
        for name in ("APc", "APm", "APl"):
            assert math.isnan(given[f"{name}{ending}"])
    assert given["AP_pool"] == pytest.approx(100 * (34 + 67 / 2) / 101, abs=1e-10)
    assert given["APr_pool"] == pytest.approx(100 * AP[0], abs=1e-10)
    assert given["APf_pool"] == pytest.approx(50, abs=1e-10)
    assert math.isnan(given["APc_pool"])
    assert curves.keys() == {("bbox", "standard"), ("bbox", "fixed")}
    np.testing.assert_allclose(curves["bbox", "fixed"][4, :, 0, 0], CURVES[0], atol=1e-14)


def test_each_mode_has_its_own_limit(monkeypatch):
    """Standard: those in their image's limit. Fixed and pool: the best of each category, here 2."""
    monkeypatch.setattr(matches_module, "MAX_DETECTIONS_PER_CATEGORY", 2)
    rows = [(*row[:3], n != 1, row[4]) for n, row in enumerate(ROWS)]  # without 0's wrong one
    metrics, _ = compute_metrics(matches(rows), scene(), ["bbox"], ("standard", "fixed", "pool"))
    assert metrics["bbox"]["APr"] == pytest.approx(100, abs=1e-10)
    # Right, wrong: one of two found.
    assert metrics["bbox"]["APr_fixed"] == pytest.approx(100 * 51 / 101, abs=1e-10)
    assert metrics["bbox"]["APr_pool"] == pytest.approx(100 * 51 / 101, abs=1e-10)


def test_tasks_and_modes_that_are_not_asked_for_are_left_out():
    some = matches(ROWS, ("bbox", "segm"))
    metrics, curves = compute_metrics(some, scene(), ["segm"], ["pool"])
    assert {task: list(values) for task, values in metrics.items()} == {
        "segm": ["AP_pool", "APr_pool", "APc_pool", "APf_pool"]
    }
    assert curves == {}
