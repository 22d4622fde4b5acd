# SPDX-License-Identifier: Apache-2.0
"""The training loader: what a position of the stream gives depends on nothing but the seed.

Not on how many workers or processes read, nor on what they have read before: a run that is resumed
goes on with the very images and augmentations that it would have seen.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, get_worker_info

from longtail.data.samplers.batches import BatchStream, Draw
from longtail.data.samplers.training import EpochSampler
from longtail.utils.randomness import derive_seed, seed_generators, seeded


class TrainingLoader:
    """Endless batches of mapped records; each process gets its share of every batch."""

    def __init__(
        self,
        records: Sequence[dict],
        mapper: Callable[[dict], Any],
        sampler: EpochSampler,
        *,
        batch_size: int,
        aspect_ratio_grouping: bool = False,
        num_workers: int = 0,
    ) -> None:
        """Put records, mapper and sampler together; nothing is read yet.

        Args:
            records: the training set in detectron2's format.
            mapper: from a record to a model's input; it may draw from the global generators.
            sampler: of the records.
            batch_size: images of a batch, over all processes.
            aspect_ratio_grouping: images that are wider than high, and others, in batches of their
                own, where all records have ``width`` and ``height``.
            num_workers: processes that read; 0 reads in this one.

        Raises:
            ValueError: the batch cannot be shared evenly.
        """
        world_size = comm.get_world_size()
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH must be a multiple of the number of processes "
                f"{world_size}, got {batch_size}"
            )
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._groups = _orientations(records) if aspect_ratio_grouping else None
        self._dataset = _SeededDataset(DatasetFromList(list(records), copy=False), mapper)
        self._position: dict[str, Any] | None = None

    def seed(self, seed: int) -> None:
        """Let the order and all augmentations follow from another seed.

        Args:
            seed: in [0, 2^63), the same in every process.
        """
        self.sampler.seed = seed

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was given out, as plain numbers."""
        return {"seed": self.sampler.seed, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; at the next iteration over the loader."""
        self.seed(state["seed"])
        self._position = state["position"]

    def __iter__(self) -> Iterator[list[Any]]:
        """Read on from the position, without end."""
        stream = BatchStream(self.sampler, self.batch_size, self._groups)
        if self._position is not None:
            stream.load_state_dict(self._position)
        # Workers are ahead of the training: the position belongs to the batch, not to the stream.
        positions: deque[dict[str, Any]] = deque()
        self._dataset.seed = self.sampler.seed
        loader = DataLoader(
            self._dataset,
            batch_sampler=_Shares(stream, positions),
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            # Otherwise it would take its seed from the generator that the model draws from.
            generator=torch.Generator(),
        )
        for batch in loader:
            self._position = positions.popleft()
            yield batch


class _Shares:
    """This process's share of every batch; notes the position after each."""

    def __init__(self, stream: BatchStream, positions: deque) -> None:
        self.stream, self.positions = stream, positions

    def __iter__(self) -> Iterator[list[Draw]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for draws in self.stream:
            self.positions.append(self.stream.state_dict())
            yield draws[rank::world_size]


class _SeededDataset(Dataset):
    """Maps a record under random numbers that belong to its position."""

    def __init__(self, records: Dataset, mapper: Callable[[dict], Any]) -> None:
        self.records, self.mapper, self.seed = records, mapper, 0

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> Any:
        seed = derive_seed(self.seed, draw.epoch, draw.place, draw.index)
        if get_worker_info() is None:
            with seeded(seed):
                return self.mapper(self.records[draw.index])
        # A worker draws for nothing else.
        seed_generators(seed)
        return self.mapper(self.records[draw.index])


def _orientations(records: Sequence[dict]) -> list[int] | None:
    """Which records are wider than high; None where one does not say."""
    if not all("width" in record and "height" in record for record in records):
        return None
    return [int(record["width"] > record["height"]) for record in records]


def _as_it_is(batch: list) -> list:
    return batch
