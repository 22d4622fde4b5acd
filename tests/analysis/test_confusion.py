# SPDX-License-Identifier: Apache-2.0
"""Confused classes and groups, on a matrix that one can check by eye."""

import numpy as np
import pytest
import scipy.sparse

from longtail.analysis.confusion import (
    arranged,
    confused_pairs,
    group_confusion,
    truth_percent,
)

# Rows: ground truth.
CONFUSION = np.array(
    [
        [90, 6, 4, 0],
        [10, 30, 0, 0],
        [3, 0, 1, 0],
        [0, 0, 0, 0],
    ]
)


def test_percent_of_ground_truth():
    expected = [[90, 6, 4, 0], [25, 75, 0, 0], [75, 0, 25, 0], [np.nan] * 4]
    np.testing.assert_allclose(truth_percent(CONFUSION), expected)
    with pytest.raises(ValueError, match=r"square .* \(4, 3\)"):
        truth_percent(CONFUSION[:, :3])


def test_pairs_are_ranked_by_their_share():
    pairs = confused_pairs(CONFUSION, 3)
    assert [(p["truth"], p["predicted"], p["count"]) for p in pairs] == [
        (2, 0, 3),
        (1, 0, 10),
        (0, 1, 6),
    ]
    assert [p["percent"] for p in pairs] == [75, 25, 6]
    assert len(confused_pairs(CONFUSION, 100)) == 4
    assert confused_pairs(np.diag([3, 4]), 5) == []
    # Equal shares: the larger count.
    pairs = confused_pairs([[1, 0, 1], [0, 4, 4], [0, 0, 1]], 2)
    assert [(p["truth"], p["predicted"]) for p in pairs] == [(1, 2), (0, 2)]


def test_groups():
    found = group_confusion(CONFUSION, {"head": [0, 1], "tail": [2, 3]})
    # Of 140 pixels of the head 120 are right, 16 another class of the head, 4 the tail's.
    np.testing.assert_allclose(found["right"], [100 * 120 / 140, 25])
    np.testing.assert_allclose(found["predicted"], [[1600 / 140, 400 / 140], [75, 0]])
    assert np.isnan(group_confusion(CONFUSION, {"a": [0, 1, 2], "b": [3]})["right"][1])
    with pytest.raises(ValueError, match=r"'tail' names the classes \[4\], expected 0\.\.3"):
        group_confusion(CONFUSION, {"tail": [4]})
    assert group_confusion(CONFUSION, {})["predicted"].shape == (0, 0)


def test_groups_of_single_classes_are_the_classes():
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 50, (5, 5))
    found = group_confusion(confusion, {str(index): [index] for index in range(5)})
    np.testing.assert_allclose(
        found["predicted"] + np.diag(found["right"]), truth_percent(confusion)
    )


def test_sparse_matrices_give_the_same():
    rows, columns = np.nonzero(CONFUSION)
    counts = CONFUSION[rows, columns]
    # Every entry twice, of half the count or of one less: they are added up.
    halves = np.concatenate([counts // 2, counts - counts // 2])
    places = np.tile(rows, 2), np.tile(columns, 2)
    sparse = scipy.sparse.coo_array((halves, places), shape=(4, 4))
    assert confused_pairs(sparse, 9) == confused_pairs(CONFUSION, 9)
    np.testing.assert_allclose(truth_percent(sparse), truth_percent(CONFUSION))
    groups = {"head": [0, 1], "tail": [2, 3]}
    for key, values in group_confusion(CONFUSION, groups).items():
        np.testing.assert_allclose(group_confusion(sparse, groups)[key], values)


def test_a_drawn_matrix_has_another_order_and_adds_neighbours_up():
    order = [2, 0, 3, 1]
    assert arranged(CONFUSION, order, 9).tolist() == CONFUSION[np.ix_(order, order)].tolist()
    # Classes 2 and 0 are one row, 3 and 1 the other one.
    assert arranged(CONFUSION, order, 2).tolist() == [[1 + 3 + 4 + 90, 6], [10, 30]]


def test_thousands_of_classes_take_no_dense_matrix():
    K = 50_000
    sparse = scipy.sparse.coo_array(([1, 3], ([0, 0], [K - 1, 0])), shape=(K, K))
    assert confused_pairs(sparse, 5) == [
        {"truth": 0, "predicted": K - 1, "count": 1, "percent": 25.0}
    ]
    assert arranged(sparse, np.arange(K), 2).tolist() == [[3, 1], [0, 0]]
    groups = {"head": range(K // 2), "tail": range(K // 2, K)}
    np.testing.assert_array_equal(group_confusion(sparse, groups)["right"], [75, np.nan])
