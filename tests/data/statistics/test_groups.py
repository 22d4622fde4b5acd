# SPDX-License-Identifier: Apache-2.0
"""Groups of classes at their limits: LVIS's, head / body / tail, and many / medium / few."""

from itertools import chain

import numpy as np
import pytest
import torch

from longtail.data.statistics.groups import (
    checked_groups,
    frequency_groups,
    frequency_letter,
    groups_by_letter,
    groups_by_pixel_share,
    shot_groups,
    thirds_by_rank,
)


@pytest.mark.parametrize(
    ("count", "letter"),
    [(0, "r"), (1, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f"), (64_000, "f")],
)
def test_letters_at_the_limits(count, letter):
    assert frequency_letter(count) == letter
    assert frequency_letter(np.int64(count)) == letter


def test_groups_hold_every_class_once():
    counts = np.random.default_rng(0).integers(0, 300, 500)
    groups = frequency_groups(counts)
    assert list(groups) == ["rare", "common", "frequent"]
    assert sorted(chain.from_iterable(groups.values())) == list(range(500))
    limits = {"rare": (0, 10), "common": (11, 100), "frequent": (101, 300)}
    for name, (low, high) in limits.items():
        assert groups[name] == [k for k in range(500) if low <= counts[k] <= high] != []


def test_groups_may_be_empty():
    assert frequency_groups([3, 500, 10]) == {"rare": [0, 2], "common": [], "frequent": [1]}
    assert frequency_groups([]) == {"rare": [], "common": [], "frequent": []}


def test_many_medium_and_few_at_the_limits():
    # More than 100; 20 to 100; fewer than 20.
    groups = shot_groups(np.array([101, 100, 20, 19, 0, 1280]))
    assert groups == {"many": [0, 5], "medium": [1, 2], "few": [3, 4]}
    assert shot_groups([50]) == {"many": [], "medium": [0], "few": []}


def test_thirds_by_rank():
    # Pixels, most first: class 2, 5, 0 | 4, 3 (tie with 6: smaller index first) | 6, 1.
    groups = groups_by_pixel_share([50, 0, 90, 7, 8, 60, 7])
    assert groups == {"head": [0, 2, 5], "body": [3, 4], "tail": [1, 6]}


@pytest.mark.parametrize(
    ("num_classes", "sizes"),
    [(11, [4, 4, 3]), (24, [8, 8, 8]), (25, [9, 8, 8]), (2, [1, 1, 0])],
)
def test_sizes_of_the_thirds(num_classes, sizes):
    groups = groups_by_pixel_share(torch.arange(num_classes))
    assert [len(groups[name]) for name in ("head", "body", "tail")] == sizes
    assert sorted(chain.from_iterable(groups.values())) == list(range(num_classes))


def test_thirds_of_ranked_classes():
    assert thirds_by_rank(range(8)) == {"head": [0, 1, 2], "body": [3, 4, 5], "tail": [6, 7]}
    assert thirds_by_rank([3, 0, 2, 1]) == {"head": [0, 3], "body": [2], "tail": [1]}


def test_shares_and_counts_agree():
    counts = np.random.default_rng(1).integers(0, 10**9, 30)
    assert groups_by_pixel_share(counts) == groups_by_pixel_share(counts / counts.sum())


def test_pixels_of_a_bad_shape():
    with pytest.raises(ValueError, match=r"expected \(K,\) counts"):
        groups_by_pixel_share(torch.zeros(2, 2))


def test_groups_by_letter():
    groups = groups_by_letter("fcrrf")
    assert list(groups) == ["r", "c", "f"]
    assert groups == {"r": [2, 3], "c": [1], "f": [0, 4]}
    assert groups_by_letter([]) == {"r": [], "c": [], "f": []}
    with pytest.raises(KeyError, match="x"):
        groups_by_letter(["x"])


def test_groups_that_hold_every_class_once_are_copied():
    given = {"tail": (2, 0), "head": range(1, 2), "none": []}
    groups = checked_groups(given, 3, "toy")
    assert list(groups.items()) == [("tail", [2, 0]), ("head", [1]), ("none", [])]


@pytest.mark.parametrize(
    "groups",
    [
        {"head": [0], "tail": [2]},
        {"head": [0, 1], "tail": [1, 2]},
        {"head": [0, 1], "tail": [2, 3]},
        {"head": [0, 1], "tail": [-1, 2]},
        {},
    ],
    ids=["left out", "twice", "too large", "negative", "none"],
)
def test_groups_that_do_not(groups):
    with pytest.raises(ValueError, match=r"^toy: class_groups .* 0\.\.2 ") as error:
        checked_groups(groups, 3, "toy")
    assert str(groups) in str(error.value)
