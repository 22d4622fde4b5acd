"""Groups by training images: LVIS's (up to 10, 100, beyond), and many / medium / few."""

import numpy as np
import pytest

from longtail.data.statistics.groups import frequency_groups, frequency_letter, shot_groups


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
    assert sorted(sum(groups.values(), [])) == list(range(500))
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
