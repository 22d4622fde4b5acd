# SPDX-License-Identifier: Apache-2.0
"""Endless batches, and continuing at any position of them."""

import itertools

import pytest
import torch

from longtail.data.samplers import (
    ClassBalancedTrainingSampler,
    EpochSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from longtail.data.samplers.batches import BatchStream


class Listed(EpochSampler):
    """0, 1, 2, 3, 4 in every epoch."""

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(5)


SAMPLERS = {
    "all": lambda: TrainingSampler(7, seed=3),
    "part": lambda: RandomSubsetTrainingSampler(9, 0.5, seed=3),
    "repeated": lambda: RepeatFactorTrainingSampler(torch.tensor([1.0, 1.5, 2.3, 1.1]), seed=3),
    "balanced": lambda: ClassBalancedTrainingSampler([[0, 1, 2], [2, 3], [4]], seed=3),
}


def indices(stream: BatchStream, number: int) -> list[list[int]]:
    return [[draw.index for draw in batch] for batch in itertools.islice(stream, number)]


def test_a_smaller_batch_after_a_resume_takes_all_that_wait():
    """Seven of a group wait for a batch of eight; afterwards two go at a time."""
    groups = [0, 0, 0, 1, 1]
    stream = BatchStream(Listed(0), 8, groups)
    state = {"epoch": 2, "place": 0, "waiting": [[0, p, i] for p, i in enumerate([0, 1, 2, 0, 1])]}
    state["waiting"] += [[0, 9, 3]]
    stream.load_state_dict(state)
    stream.batch_size = 2
    # 0 1 | 2 0 wait in pairs, then 1 with the next epoch's 0, and so on; 3 with its own.
    found = indices(stream, 6)
    assert found == [[0, 1], [2, 0], [1, 0], [1, 2], [3, 3], [0, 1]]
    # Nothing piles up.
    assert sum(len(draws) for draws in stream._waiting.values()) < 4


def test_batches_go_on_over_epochs():
    found = indices(BatchStream(Listed(0), 3), 4)
    assert found == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]


def test_groups_have_batches_of_their_own():
    """Images 0, 2, 4 are of one group, 1, 3 of the other; a group waits until it has two."""
    found = indices(BatchStream(Listed(0), 2, [0, 1, 0, 1, 0]), 5)
    # Stream: 0 1 2 | 3 4 0 1 2 ...: 0+2, then 1+3, then 4+0, 1+3 of the second epoch, 2+4.
    assert found == [[0, 2], [1, 3], [4, 0], [1, 3], [2, 4]]


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("groups", [None, [0, 1, 1, 0, 1, 0, 0, 1, 1]])
def test_any_position_is_reached_at_once(kind, groups):
    whole = indices(BatchStream(SAMPLERS[kind](), 2, groups), 30)
    for position in range(29):
        stream = BatchStream(SAMPLERS[kind](), 2, groups)
        assert indices(stream, position) == whole[:position]
        drawn = []
        sampler = SAMPLERS[kind]()
        epoch = sampler.epoch
        sampler.epoch = lambda number, epoch=epoch, drawn=drawn: (
            drawn.append(number) or epoch(number)
        )
        resumed = BatchStream(sampler, 2, groups)
        resumed.load_state_dict(stream.state_dict())
        assert indices(resumed, 30 - position) == whole[position:]
        # Epochs before the position are not drawn again.
        assert drawn[0] == stream.state_dict()["epoch"]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_epochs_differ_and_belong_to_the_seed(kind):
    sampler = SAMPLERS[kind]()
    epochs = [sampler.epoch(number).tolist() for number in range(6)]
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [SAMPLERS[kind]().epoch(number).tolist() for number in range(6)] == epochs
    sampler.seed = 4
    assert [sampler.epoch(number).tolist() for number in range(6)] != epochs


def test_every_image_once_an_epoch():
    sampler = TrainingSampler(7, seed=0)
    assert all(sorted(sampler.epoch(number).tolist()) == list(range(7)) for number in range(5))


def test_the_same_part_in_every_epoch():
    sampler = RandomSubsetTrainingSampler(9, 0.5, seed=0)
    parts = {tuple(sorted(sampler.epoch(number).tolist())) for number in range(8)}
    # int(0.5 * 9) = 4 of 9 images, none twice.
    assert len(parts) == 1 and len(set(next(iter(parts)))) == 4


def test_repeat_factors_are_kept_on_average():
    """1.25 is once, and twice in a quarter of the epochs: 4 standard deviations of 2,000 epochs."""
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 1.25, 3.0]), seed=0)
    epochs = [sampler.epoch(number) for number in range(2000)]
    counts = torch.stack([epoch.bincount(minlength=3) for epoch in epochs]).float().mean(0)
    assert counts[0] == 1 and counts[2] == 3
    assert abs(counts[1] - 1.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5
