# SPDX-License-Identifier: Apache-2.0
"""Remark 1 as the theorem that it is, on exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from region_rebalance.conditions import compare_violations, iou_conditions, summarize_conditions


def matrix(hits, missed, false):
    """Class 0 with these counts; class 1 is what remains."""
    return np.array([[hits, missed], [false, 10_000 - false]])


def exact_iou(confusion, index):
    """As a fraction, None without ground truth."""
    confusion = confusion.tolist()
    truth = sum(confusion[index])
    union = truth + sum(row[index] for row in confusion) - confusion[index][index]
    return Fraction(confusion[index][index], union) if truth else None


def random_pair(rng, K):
    """Two matrices of one ground truth: some classes absent, some never right, some unchanged."""
    truth = rng.integers(0, 12, K)
    # Small numbers, so that both sides are often equal.
    return tuple(
        np.array([rng.multinomial(n, rng.dirichlet(np.full(K, 0.3))) for n in truth])
        for _ in range(2)
    )


def check_theorem(before, after):
    """Return how many classes were on the edge."""
    found, edges = iou_conditions(before, after), 0
    for index in range(len(before)):
        old, new = exact_iou(before, index), exact_iou(after, index)
        tp, tp_r = int(before[index, index]), int(after[index, index])
        assert found["applies"][index] == (tp > 0 and tp_r >= tp)
        assert found["rose"][index] == (old is not None and new > old)
        if found["applies"][index]:
            assert found["holds"][index] == (old <= new)
            gain = Fraction(tp_r, tp) - 1
            fp, fp_r = (int(m[:, index].sum() - m[index, index]) for m in (before, after))
            left, right = fp_r - (1 + gain) * fp, gain * int(before[index].sum())
            assert found["holds"][index] == (left <= right)
            assert found["gain"][index] == pytest.approx(float(gain))
            assert found["left"][index] == pytest.approx(float(left), abs=1e-9)
            assert found["right"][index] == pytest.approx(float(right), abs=1e-9)
            edges += old == new
        else:
            assert not found["holds"][index]
    assert summarize_conditions(found)["rose_though_violated"] == 0
    return edges


def test_by_hand():
    # Acc 40 / 100 -> 60 / 100, K = 0.5: FP may grow from 20 to 0.5 * 100 + 1.5 * 20 = 80.
    before = matrix(40, 60, 20)
    for false, holds, rose in ((79, True, True), (80, True, False), (81, False, False)):
        found = iou_conditions(before, matrix(60, 40, false))
        assert found["gain"][0] == pytest.approx(0.5)
        assert (found["pixels"][0], found["false_positives"][0]) == (100, 20)
        assert found["false_positives_after"][0] == false
        assert found["left"][0] == pytest.approx(false - 30)
        assert found["right"][0] == pytest.approx(50)
        assert (found["holds"][0], found["rose"][0]) == (holds, rose)
        assert found["iou"][0] == pytest.approx(40 / 120)
        assert found["iou_after"][0] == pytest.approx(60 / (100 + false))


def test_it_says_nothing_of_less_accuracy_or_none():
    for before, after in (
        (matrix(40, 60, 20), matrix(39, 61, 0)),
        (matrix(0, 100, 20), matrix(50, 50, 0)),
        (matrix(0, 0, 3), matrix(0, 0, 9)),
    ):
        found = iou_conditions(before, after)
        assert not found["applies"][0] and not found["holds"][0]
    assert np.isnan(found["gain"][0]) and np.isnan(found["iou"][0]) and not found["rose"][0]


def test_theorem_on_random_matrices():
    rng = np.random.default_rng(0)
    edges = sum(check_theorem(*random_pair(rng, 4)) for _ in range(1500))
    assert edges > 20


def test_theorem_near_equality():
    """False positives one below, at and one above the edge, of huge and of small classes."""
    rng = np.random.default_rng(1)
    edges = 0
    for size in (30, 10**6, 10**12):
        for _ in range(200):
            n = int(rng.integers(2, size))
            tp, tp_r = sorted(rng.integers(1, n + 1, 2).tolist())
            fp = int(rng.integers(0, size))
            # IoU stays what it is at FP_r = TP_r (n + FP) / TP - n.
            edge = tp_r * (n + fp) // tp - n
            for fp_r in (edge - 1, edge, edge + 1):
                if fp_r >= 0:
                    others = max(fp, fp_r) + 7
                    before = np.array([[tp, n - tp], [fp, others - fp]])
                    after = np.array([[tp_r, n - tp_r], [fp_r, others - fp_r]])
                    exact_rise = Fraction(tp_r, n + fp_r) >= Fraction(tp, n + fp)
                    found = iou_conditions(before, after)
                    assert found["holds"][0] == exact_rise
                    assert summarize_conditions(found)["rose_though_violated"] == 0
                    edges += Fraction(tp_r, n + fp_r) == Fraction(tp, n + fp)
    assert edges > 20


def test_equality_is_exact():
    """TP, n + FP grow by the same factor: IoU is the same, whatever floats make of it."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        a, b = sorted(rng.integers(1, 1000, 2).tolist())
        hits, union = rng.integers(10**8, 10**9), rng.integers(10**12, 10**13)
        tp, tp_r, n = int(a * hits), int(b * hits), int(b * hits) + 5
        fp, fp_r = int(a * union) - n, int(b * union) - n
        for more in (-1, 0, 1):
            others = fp_r + 7
            before = np.array([[tp, n - tp], [fp, others - fp]])
            after = np.array([[tp_r, n - tp_r], [fp_r + more, others - fp_r - more]])
            assert iou_conditions(before, after)["holds"][0] == (more <= 0)


def test_two_methods_over_one_baseline():
    # Classes 0 and 1 as in matrix; class 0 violates it with 81 false positives, with 79 not.
    before = matrix(40, 60, 20)
    pixel = iou_conditions(before, matrix(60, 40, 81))
    region = iou_conditions(before, matrix(60, 40, 79))
    counts = compare_violations(pixel, region)
    assert counts == {"first_only": 1, "second_only": 0, "both": 0, "neither": 1}
    assert compare_violations(region, pixel)["second_only"] == 1
    assert compare_violations(pixel, pixel) == {
        "first_only": 0, "second_only": 0, "both": 1, "neither": 1
    }  # fmt: skip
    summary = summarize_conditions(pixel)
    # The accuracy of class 1 has fallen.
    assert summary == {
        "classes": 2, "applies": 1, "holds": 0, "violated": 1, "rose_though_violated": 0
    }  # fmt: skip


def test_bad_matrices():
    good = matrix(40, 60, 20)
    with pytest.raises(ValueError, match="not of the same ground truth"):
        iou_conditions(good, matrix(40, 61, 20))
    with pytest.raises(ValueError, match="not of the same ground truth"):
        iou_conditions(good, np.zeros((3, 3), dtype=int))
    for bad in (good[:1], good / 100, -good):
        with pytest.raises(ValueError, match=r"\(K, K\) confusion matrix of counts"):
            iou_conditions(good, bad)
