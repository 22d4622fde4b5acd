# SPDX-License-Identifier: Apache-2.0
"""Per-class gain by frequency, on numbers that one can check by eye."""

import numpy as np
import pytest

from longtail.analysis.gain import class_gain, frequency_order, gain_summary, largest_changes

NAN = float("nan")
BEFORE = [50.0, 40.0, 30.0, NAN, 10.0]
AFTER = [48.5, 40.0, 34.0, 20.0, 11.0]


def test_gain_is_after_minus_before():
    np.testing.assert_array_equal(class_gain(BEFORE, AFTER), [-1.5, 0, 4, NAN, 1])
    with pytest.raises(ValueError, match=r"\(5,\) and \(4,\)"):
        class_gain(BEFORE, AFTER[:4])
    with pytest.raises(ValueError, match="two metrics of shape"):
        class_gain([BEFORE], [AFTER])


def test_order_is_most_frequent_first_and_stable():
    assert frequency_order([5, 7, 5, 0, 9]).tolist() == [4, 1, 0, 2, 3]
    # Of a type whose negative would overflow.
    assert frequency_order(np.array([0, 2, 1], dtype=np.uint64)).tolist() == [1, 2, 0]


def test_summary():
    summary = gain_summary(class_gain(BEFORE, AFTER), {"head": [0, 1], "body": [3], "tail": [2, 4]})
    assert (summary["classes"], summary["rose"], summary["fell"], summary["same"]) == (4, 2, 1, 1)
    assert summary["mean"] == pytest.approx((-1.5 + 0 + 4 + 1) / 4)
    assert summary["groups"]["head"] == pytest.approx(-0.75)
    assert summary["groups"]["tail"] == pytest.approx(2.5)
    assert np.isnan(summary["groups"]["body"])
    assert np.isnan(gain_summary([NAN])["mean"])


def test_largest_changes():
    rising, falling = largest_changes([-1.5, 0, 4, NAN, 1, -3, 4], 2)
    assert rising.tolist() == [2, 6] and falling.tolist() == [5, 0]
    rising, falling = largest_changes([0, NAN, 0.5], 5)
    assert rising.tolist() == [2] and falling.tolist() == []
