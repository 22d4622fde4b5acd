# SPDX-License-Identifier: Apache-2.0
"""Where predictions differ, on predictions made by hand."""

import numpy as np
import pytest

from longtail.visualization.differences import (
    disagreement,
    disagreement_share,
    matched,
    top1_difference,
    top1_differs,
    unmatched,
)
from longtail.visualization.predictions import Objects, Ranking

A = np.array([[0, 0, 1, 1], [2, 2, 2, 2]], np.uint8)
B = np.array([[0, 1, 1, 1], [2, 2, 2, 0]], np.int64)
C = np.array([[0, 0, 1, 1], [2, 1, 2, 2]], np.uint8)
TARGET = np.array([[0, 255, 1, 1], [2, 2, 2, 2]], np.uint8)


def test_disagreement_is_the_mask_made_by_hand():
    assert disagreement([A, B]).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert disagreement([A, B, C]).tolist() == [[0, 1, 0, 0], [0, 1, 0, 1]]
    assert disagreement([A, B], TARGET).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert not disagreement([A]).any()


def test_the_share_is_of_the_pixels_that_are_not_ignored():
    assert disagreement_share([A, B]) == 2 / 8
    assert disagreement_share([A, B], TARGET) == 1 / 7
    assert disagreement_share([A, B, C], TARGET) == 2 / 7
    assert disagreement_share([A, B], np.full_like(A, 255)) == 0
    # Another ignored label: the pixels of class 2 do not count.
    assert disagreement_share([A, B], A, ignore_label=2) == 1 / 4


def objects(*rows: tuple) -> Objects:
    """Rows of class, x0, y0, x1, y1, the best score first."""
    table = np.array(rows, float).reshape(-1, 5)
    scores = np.linspace(0.9, 0.6, len(table))
    return Objects(table[:, 0].astype(int), table[:, 1:], scores)


def test_a_partner_has_the_class_and_half_of_the_area():
    one = objects((1, 0, 0, 10, 10))
    # IoU = 50 / 100, 49 / 100 and 100 / 100 of another class.
    assert matched(one, objects((1, 0, 0, 10, 5))).tolist() == [True]
    assert matched(one, objects((1, 0, 0, 10, 4.9))).tolist() == [False]
    assert matched(one, objects((2, 0, 0, 10, 10))).tolist() == [False]
    assert matched(one, objects()).tolist() == [False]
    assert matched(objects(), one).tolist() == []


def test_a_partner_is_chosen_once_by_the_best_score():
    both = objects((1, 0, 0, 10, 9), (1, 0, 0, 10, 10))
    assert matched(both, objects((1, 0, 0, 10, 10))).tolist() == [True, False]


def test_unmatched_objects_are_those_that_some_column_lacks():
    a = objects((0, 0, 0, 10, 10), (1, 20, 20, 30, 30))
    b = objects((0, 1, 0, 10, 10), (2, 20, 20, 30, 30))
    assert [each.tolist() for each in unmatched([a, b])] == [[False, True], [False, True]]
    none = unmatched([a, b, objects()])
    assert [each.tolist() for each in none] == [[True, True], [True, True], []]
    assert [each.tolist() for each in unmatched([a])] == [[False, False]]


def test_best_classes_differ_by_how_sure_they_are():
    sure, other = Ranking([3, 1], [0.75, 0.2]), Ranking([1, 3], [0.25, 0.2])
    assert top1_differs([sure, other]) and top1_difference([sure, other]) == 0.5
    same = Ranking([3, 2], [0.5, 0.4])
    assert not top1_differs([sure, same]) and top1_difference([sure, same]) == 0
    # One of three is enough; the mean of 0.75, 0.5 and 0.25.
    assert top1_difference([sure, same, other]) == pytest.approx(0.5)
