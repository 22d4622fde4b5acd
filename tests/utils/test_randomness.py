# SPDX-License-Identifier: Apache-2.0
"""Random numbers that belong to a place."""

import random

import numpy as np
import torch

from longtail.utils.randomness import derive_seed, seed_generators, seeded


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


def test_seeds_differ_in_every_number_and_in_their_order():
    seeds = {derive_seed(a, b) for a in range(30) for b in range(30)} | {derive_seed(1)}
    assert len(seeds) == 901
    assert derive_seed(2, 3) != derive_seed(3, 2)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Spread over the range, not next to each other: the mean of uniform seeds is 2^62, with a
    # standard error of 2^63 / sqrt(12 * 901), of which four are allowed.
    assert abs(np.mean([float(seed) for seed in seeds]) - 2**62) < 4 * 2**63 / (12 * 901) ** 0.5


def test_a_seed_decides_all_generators():
    seed_generators(5)
    first = draws()
    seed_generators(6)
    second = draws()
    seed_generators(5)
    assert draws() == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_generators_are_left_as_they_were():
    seed_generators(1)
    expected = [draws(), draws()]
    seed_generators(1)
    found = [draws()]
    with seeded(7):
        inside = draws()
    found.append(draws())
    assert found == expected
    with seeded(7):
        assert draws() == inside
