# SPDX-License-Identifier: Apache-2.0
"""Random numbers as a function of where they are used, not of what was drawn before."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch

# Augmentations of detectron2 and of others draw from numpy's global generator.
# ruff: noqa: NPY002


def derive_seed(*numbers: int) -> int:
    """Mix numbers into one seed.

    Args:
        numbers: such as a run's seed, an iteration and a rank; each below 2^63 in size.

    Returns:
        An integer in [0, 2^63); other numbers, or the same in another order, give an unrelated one.
    """
    message = b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little") >> 1


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (on all devices).

    Args:
        seed: in [0, 2^63).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU for a while, and leave them as they were.

    Args:
        seed: in [0, 2^63).
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed: that would seed GPUs as well, whose state is not kept here.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
