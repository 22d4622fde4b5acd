"""LVIS's groups by training images: rare 1 to 10, common 11 to 100, frequent beyond."""

import numpy as np
import pytest

from longtail.data.frequency_groups import frequency_groups, frequency_letter


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
