# SPDX-License-Identifier: Apache-2.0
"""Matched detections: the place of each bit, joining, sorting, the limit of a category, pruning."""

import numpy as np
import pytest

from longtail.evaluation.lvis import matches as module
from longtail.evaluation.lvis.matches import (
    NUM_BYTES,
    in_category_limit,
    join_matches,
    pack_bits,
    prune_matches,
    sort_matches,
    unpack_bits,
)
from tests.evaluation.lvis.by_hand import matches


@pytest.mark.parametrize(
    ("area", "threshold", "byte", "value"),
    # Bit 10 a + t, the lowest of a byte first: 0, 9, 10, 23, 39.
    [(0, 0, 0, 1), (0, 9, 1, 2), (1, 0, 1, 4), (2, 3, 2, 128), (3, 9, 4, 128)],
)
def test_place_of_a_bit(area, threshold, byte, value):
    flags = np.zeros((4, 10, 3), bool)
    flags[area, threshold, 1] = True
    expected = [[0] * 5, [0] * 5, [0] * 5]
    expected[1][byte] = value
    assert pack_bits(flags).tolist() == expected
    assert np.argwhere(unpack_bits(pack_bits(flags))).tolist() == [[10 * area + threshold, 1]]


def test_any_flags_come_back():
    flags = np.random.default_rng(0).random((4, 10, 50)) < 0.3
    bits = pack_bits(flags)
    assert bits.shape == (50, NUM_BYTES) == (50, 5) and bits.dtype == np.uint8
    np.testing.assert_array_equal(unpack_bits(bits).reshape(4, 10, 50), flags)
    assert unpack_bits(np.zeros((0, 5), np.uint8)).shape == (40, 0)


ROWS = [
    (2, 1, 0.5, True, "right"),
    (0, 0, 0.5, True, "wrong"),
    (1, 0, 0.9, False, "right"),
    (0, 1, 0.5, True, "neither"),
    (0, 1, 0.5, False, "wrong"),
]


def listed(some):
    return list(zip(some.image.tolist(), some.category.tolist(), strict=True))


def test_order():
    """Category, falling score, image; the two of image 0 and category 1 stay as they are."""
    ordered = sort_matches(matches(ROWS))
    assert listed(ordered) == [(1, 0), (0, 0), (0, 1), (0, 1), (2, 1)]
    assert ordered.in_image_limit.tolist() == [False, True, True, False, True]
    # The bits move with their detections.
    assert unpack_bits(ordered.true_positive["bbox"])[0].tolist() == [1, 0, 0, 0, 1]
    assert unpack_bits(ordered.false_positive["bbox"])[0].tolist() == [0, 1, 0, 1, 0]


def test_limit_of_each_category(monkeypatch):
    monkeypatch.setattr(module, "MAX_DETECTIONS_PER_CATEGORY", 2)
    ordered = sort_matches(matches(ROWS))
    assert in_category_limit(ordered).tolist() == [True, True, True, True, False]
    monkeypatch.setattr(module, "MAX_DETECTIONS_PER_CATEGORY", 1)
    assert in_category_limit(ordered).tolist() == [True, False, True, False, False]
    assert in_category_limit(matches([])).tolist() == []


def test_the_limit_is_that_of_the_paper():
    assert module.MAX_DETECTIONS_PER_CATEGORY == 10_000
    many = matches([(n, 3, 1 - n / 20_000, True, "right") for n in range(10_001)])
    assert in_category_limit(many).tolist() == [True] * 10_000 + [False]


def test_pruning_keeps_the_best_of_a_category_and_of_an_image(monkeypatch):
    monkeypatch.setattr(module, "MAX_DETECTIONS_PER_CATEGORY", 1)
    assert listed(prune_matches(matches(ROWS), keep_image_limit=False)) == [(1, 0), (0, 1)]
    kept = prune_matches(matches(ROWS), keep_image_limit=True)
    # Of category 1 the second of image 0 is in neither limit.
    assert listed(kept) == [(1, 0), (0, 0), (0, 1), (2, 1)]


def test_joining_fills_a_missing_task_with_neither():
    both = join_matches([matches(ROWS[:2], ("bbox", "segm")), matches(ROWS[2:])], ("bbox", "segm"))
    assert listed(both) == [row[:2] for row in ROWS]
    assert both.score.dtype == np.float32 and both.image.dtype == np.int32
    assert unpack_bits(both.true_positive["bbox"])[7].tolist() == [1, 0, 1, 0, 0]
    assert unpack_bits(both.true_positive["segm"])[7].tolist() == [1, 0, 0, 0, 0]
    assert unpack_bits(both.false_positive["segm"])[7].tolist() == [0, 1, 0, 0, 0]
    assert list(join_matches([both], ["bbox"]).true_positive) == ["bbox"]


def test_joining_nothing():
    nothing = join_matches([], ("bbox",))
    assert len(nothing) == 0 and nothing.true_positive["bbox"].shape == (0, 5)
    assert nothing.in_image_limit.dtype == bool
