# SPDX-License-Identifier: Apache-2.0
"""Ranks and accuracies of image classification against plain loops and by hand."""

import math

import pytest
import torch

from longtail.evaluation.classification.metrics import (
    class_accuracy,
    label_ranks,
    top_k_accuracy,
)
from tests.evaluation.classification.scores import K, place, scores_and_labels


def test_ranks():
    scores, labels = scores_and_labels()
    expected = [place(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    assert label_ranks(scores, labels).tolist() == expected
    assert {0, 1, 2, 3} <= set(expected)
    # Ties are not rare here.
    assert sum(len(set(row)) < K for row in scores.tolist()) > 20


def test_rank_0_is_what_argmax_names():
    scores, labels = scores_and_labels(200, seed=1)
    first = torch.from_numpy(scores.numpy().argmax(axis=1)) == labels
    assert torch.equal(label_ranks(scores, labels) == 0, first)


def test_ties_are_not_decided_in_favor_of_the_right_class():
    scores = torch.zeros(K, K)
    assert label_ranks(scores, torch.arange(K)).tolist() == list(range(K))


def test_ranks_do_not_change_with_a_monotone_function():
    scores, labels = scores_and_labels()
    expected = label_ranks(scores, labels)
    for other in (scores.softmax(dim=1), 3 * scores - 7, scores.exp()):
        assert torch.equal(label_ranks(other, labels), expected)


def test_infinite_scores():
    scores = torch.tensor([[-math.inf, 0.0, math.inf]]).expand(3, 3)
    assert label_ranks(scores, torch.arange(3)).tolist() == [2, 1, 0]


def test_nan():
    scores = torch.tensor([[0.0, math.nan], [0.0, 1.0]])
    with pytest.raises(ValueError, match="a score is NaN"):
        label_ranks(scores, torch.tensor([0, 1]))


def test_accuracies_by_hand():
    # Class 0: ranks 0, 4; class 1: 1, 5, 0, 0; class 3: 4; class 2 has no image.
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 3])
    ranks = torch.tensor([0, 1, 5, 4, 0, 0, 4])
    # Below 1 are 3 of 7, below 2 are 4, below 5 are 6.
    for k, right in ((1, 3), (2, 4), (5, 6), (6, 7)):
        assert top_k_accuracy(ranks, k) == pytest.approx(100 * right / 7, abs=1e-12)
    acc = class_accuracy(ranks, labels, 5)
    assert acc.dtype == torch.float64
    assert acc[[0, 1, 3]].tolist() == [50, 50, 0]
    assert acc[[2, 4]].isnan().all()
