# SPDX-License-Identifier: Apache-2.0
"""The order in which training images are drawn.

Every sampler draws an epoch as a whole, by a generator that is seeded with the run's seed and the
number of the epoch: what comes at a position needs nothing that was drawn before.

Shapes: N images, K classes.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.registry import Registry
from torch import Tensor
from torch.utils.data import Sampler

from longtail.utils.randomness import derive_seed

SAMPLER_REGISTRY = Registry("SAMPLER")
SAMPLER_REGISTRY.__doc__ = """
Registry of samplers that DATALOADER.SAMPLER_TRAIN names: subclasses of :class:`EpochSampler`.
"""


class EpochSampler(Sampler):
    """Endless image indices, epoch by epoch. A subclass says how an epoch is drawn.

    Attributes:
        seed: of the stream, the same in every process.
        instances_alone: whether it is of use for detection alone.
    """

    instances_alone = False

    def __init__(self, seed: int | None = None) -> None:
        """Agree on a seed.

        Args:
            seed: of the stream, the same in every process; by default a random one that they
                share, for which they must all be here.
        """
        self.seed = comm.shared_random_seed() if seed is None else int(seed)

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "EpochSampler":
        """Build the sampler for a data set.

        Args:
            cfg: a complete config.
            dataset_dicts: N records in detectron2's format.
            seed: see :class:`EpochSampler`.

        Raises:
            ValueError: an option out of range, or no record has what is drawn by.
        """
        raise NotImplementedError

    def epoch(self, number: int) -> Tensor:
        """The indices of an epoch, in order, int64.

        Args:
            number: of the epoch, from 0.
        """
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.seed, number))
        return self.draw(generator)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw an epoch: indices in 0..N-1, int64, at least one."""
        raise NotImplementedError

    def shares(self, size: int) -> Tensor:
        """Compute the part of the draws that each image has in expectation.

        Args:
            size: N.

        Returns:
            (N,) float64, with sum 1.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how often it draws an image")

    def __iter__(self) -> Iterator[int]:
        """The entries of the endless stream that belong to this process."""
        return itertools.islice(self._stream(), comm.get_rank(), None, comm.get_world_size())

    def _stream(self) -> Iterator[int]:
        for number in itertools.count():
            yield from self.epoch(number).tolist()


@SAMPLER_REGISTRY.register()
class TrainingSampler(EpochSampler):
    """All images in every epoch, each once, in random order."""

    def __init__(self, size: int, *, seed: int | None = None) -> None:
        """Take the number of images.

        Args:
            size: N > 0.
            seed: see :class:`EpochSampler`.

        Raises:
            ValueError: there is no image.
        """
        if size <= 0:
            raise ValueError(f"TrainingSampler needs at least one image, got {size}")
        super().__init__(seed)
        self.size = size

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "TrainingSampler":
        """Of all records, see :meth:`EpochSampler.from_records`."""
        return cls(len(dataset_dicts), seed=seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Permute all images."""
        return torch.randperm(self.size, generator=generator)

    def shares(self, size: int) -> Tensor:
        """1 / N, see :meth:`EpochSampler.shares`; of a random part, over all seeds."""
        return torch.full((size,), 1 / size, dtype=torch.float64)


@SAMPLER_REGISTRY.register()
class RandomSubsetTrainingSampler(TrainingSampler):
    """A random part of the images, the same in every epoch, in random order."""

    def __init__(self, size: int, ratio: float, *, seed: int | None = None) -> None:
        """Take the number of images and the part of them.

        Args:
            size: N.
            ratio: the part of the images, in (0, 1].
            seed: also of the part, see :class:`EpochSampler`.

        Raises:
            ValueError: the part is out of range or empty.
        """
        super().__init__(size, seed=seed)
        if not (0 < ratio <= 1 and int(ratio * size)):
            raise ValueError(
                "DATALOADER.RANDOM_SUBSET_RATIO must be in (0, 1] and leave at least one of the "
                f"{size} images, got {ratio}"
            )
        self.subset_size = int(ratio * size)

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "RandomSubsetTrainingSampler":
        """With DATALOADER.RANDOM_SUBSET_RATIO, see :meth:`EpochSampler.from_records`."""
        return cls(len(dataset_dicts), cfg.DATALOADER.RANDOM_SUBSET_RATIO, seed=seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Permute the part."""
        chooser = torch.Generator()
        # As of an epoch before the first: the seed may be replaced when a run is resumed.
        chooser.manual_seed(derive_seed(self.seed, -1))
        subset = torch.randperm(self.size, generator=chooser)[: self.subset_size]
        return subset[torch.randperm(self.subset_size, generator=generator)]


def build_train_sampler(
    cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
) -> EpochSampler:
    """Build the sampler that ``DATALOADER.SAMPLER_TRAIN`` names.

    Args:
        cfg: a complete config.
        dataset_dicts: the records that the loader gets, in the same order: the sampler's indices
            are into this list.
        seed: see :class:`EpochSampler`.

    Raises:
        ValueError: no sampler has this name, or no record has what it draws by.
    """
    kind = sampler_class(cfg.DATALOADER.SAMPLER_TRAIN, "DATALOADER.SAMPLER_TRAIN")
    return kind.from_records(cfg, dataset_dicts, seed=seed)


def sampler_class(name: str, key: str) -> type[EpochSampler]:
    """Look a sampler up.

    Args:
        name: registered in SAMPLER_REGISTRY.
        key: where it is named, for the message.

    Raises:
        ValueError: no sampler has this name.
    """
    known = dict(SAMPLER_REGISTRY)
    if name not in known:
        raise ValueError(f"{key} must be one of {[*known]}, got {name!r}")
    return known[name]
