# SPDX-License-Identifier: Apache-2.0
"""The order in which training images are drawn.

Every sampler draws an epoch as a whole, by a generator that is seeded with the run's seed and the
number of the epoch: what comes at a position needs nothing that was drawn before.

Shapes: N images, K classes.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import samplers as detectron2_samplers
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
    """

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


@SAMPLER_REGISTRY.register()
class RepeatFactorTrainingSampler(EpochSampler):
    """Images of rare classes several times an epoch (Gupta et al. 2019), in random order."""

    def __init__(self, repeat_factors: Tensor, *, seed: int | None = None) -> None:
        """Take how often each image is repeated.

        Args:
            repeat_factors: (N,) how often an image is in an epoch, >= 1; of a fraction, that is
                the probability of once more.
            seed: see :class:`EpochSampler`.
        """
        super().__init__(seed)
        self.repeat_factors = repeat_factors

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "RepeatFactorTrainingSampler":
        """With DATALOADER.REPEAT_THRESHOLD, see :meth:`EpochSampler.from_records`."""
        return cls(_repeat_factors(cfg, dataset_dicts), seed=seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Repeat the images, then permute them."""
        whole = self.repeat_factors.floor()
        once_more = torch.rand(len(whole), generator=generator) < self.repeat_factors - whole
        repeats = whole.long() + once_more
        images = torch.arange(len(whole)).repeat_interleave(repeats)
        return images[torch.randperm(len(images), generator=generator)]


@SAMPLER_REGISTRY.register()
class ClassBalancedTrainingSampler(EpochSampler):
    """A class is drawn, then one of its n_c images uniformly.

    The class is drawn with a probability proportional to n_c^q, here q = 0: uniformly.

    An image of several classes is in the list of each. An epoch is as many draws as the lists are
    long.
    """

    exponent = 0.0

    def __init__(
        self, images_by_class: Sequence[Sequence[int]], *, seed: int | None = None
    ) -> None:
        """Set the images and the seed of the stream.

        Args:
            images_by_class: for each class that occurs the indices (0..N-1) of its images, as
                :meth:`.images_by_class_from_dataset_dicts` makes them.
            seed: see :class:`EpochSampler`.

        Raises:
            ValueError: there is no class, or a class has no image.
        """
        if len(images_by_class) == 0 or any(len(images) == 0 for images in images_by_class):
            raise ValueError(
                f"{type(self).__name__} needs at least one class, and an image of every class: "
                "leave classes without images out"
            )
        super().__init__(seed)
        self._images = torch.tensor([i for images in images_by_class for i in images])
        self._sizes = torch.tensor([len(images) for images in images_by_class])

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "ClassBalancedTrainingSampler":
        """Of labels or annotations, see :meth:`EpochSampler.from_records`."""
        return cls(cls.images_by_class_from_dataset_dicts(dataset_dicts), seed=seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw classes, then images."""
        count = len(self._images)
        place, within = torch.rand(2, count, dtype=torch.float64, generator=generator)
        ends = self._sizes.double().pow(self.exponent).cumsum(0)
        # At most the last: the products may round up to the end.
        drawn = torch.searchsorted(ends, place * ends[-1], right=True).clamp(max=len(ends) - 1)
        sizes = self._sizes[drawn]
        starts = (self._sizes.cumsum(0) - self._sizes)[drawn]
        return self._images[starts + torch.minimum((within * sizes).long(), sizes - 1)]

    @classmethod
    def images_by_class_from_dataset_dicts(cls, dataset_dicts: Sequence[dict]) -> list[list[int]]:
        """List the images of every class that occurs, in ascending order of the classes.

        Args:
            dataset_dicts: N records in detectron2's format, with ``label`` or ``annotations``.
                Images with neither are in no list, so the sampler never draws them; nor do
                annotations with ``iscrowd`` = 1 count, which are not trained on.

        Returns:
            For each class the ascending indices of its images, each image once.

        Raises:
            ValueError: no record has a label or an annotation that counts.
        """
        images = defaultdict(list)
        for index, record in enumerate(dataset_dicts):
            for category in _classes(record):
                images[category].append(index)
        if not images:
            raise ValueError(
                f"{cls.__name__}: none of the {len(dataset_dicts)} images has a label or "
                "annotations to draw a class from; use DATALOADER.SAMPLER_TRAIN TrainingSampler"
            )
        return [images[category] for category in sorted(images)]


@SAMPLER_REGISTRY.register()
class SquareRootTrainingSampler(ClassBalancedTrainingSampler):
    """A class is drawn with q = 1/2, between balanced classes (0) and equal images (1)."""

    exponent = 0.5


def _classes(record: dict) -> set[int]:
    """List the classes that an image counts for."""
    if "label" in record:
        return {record["label"]}
    instances = record.get("annotations") or ()
    return {a["category_id"] for a in instances if not a.get("iscrowd", 0)}


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
    name, known = cfg.DATALOADER.SAMPLER_TRAIN, dict(SAMPLER_REGISTRY)
    if name not in known:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN must be one of {[*known]}, got {name!r}")
    return known[name].from_records(cfg, dataset_dicts, seed=seed)


def _repeat_factors(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> Tensor:
    # detectron2 would only say: KeyError: 'annotations'.
    without = [r.get("file_name") for r in dataset_dicts if "annotations" not in r]
    if without:
        raise ValueError(
            "RepeatFactorTrainingSampler repeats images by their instances, but "
            f"{len(without)} records (such as {without[0]}) have no 'annotations'; use "
            "DATALOADER.SAMPLER_TRAIN TrainingSampler"
        )
    kind = detectron2_samplers.RepeatFactorTrainingSampler
    return kind.repeat_factors_from_category_frequency(
        dataset_dicts, cfg.DATALOADER.REPEAT_THRESHOLD
    )
