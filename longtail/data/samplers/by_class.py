# SPDX-License-Identifier: Apache-2.0
"""Samplers that draw a class, then one of its images.

Shapes: N images, K classes of which K' occur, M pairs of a class and one of its images.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor

from longtail.data.samplers.occurrences import count_occurrences, images_by_class, total_counts
from longtail.data.samplers.training import SAMPLER_REGISTRY, EpochSampler


@SAMPLER_REGISTRY.register()
class ClassBalancedTrainingSampler(EpochSampler):
    """A class is drawn, then one of its n_c images uniformly.

    The class is drawn with a probability proportional to n_c^q, here q = 0: uniformly.

    An image of several classes is in the list of each. An epoch is as many draws as the lists are
    long.
    """

    exponent = 0.0

    def __init__(
        self,
        images_by_class: Sequence[Sequence[int]],
        *,
        classes: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> None:
        """Set the images and the seed of the stream.

        Args:
            images_by_class: for each of the K' classes that occur the indices (0..N-1) of its
                images, as :meth:`.images_by_class_from_dataset_dicts` makes them.
            classes: the K' classes, 0..K'-1 by default.
            seed: see :class:`.EpochSampler`.

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
        self._classes = torch.tensor(
            range(len(images_by_class)) if classes is None else list(classes)
        )

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "ClassBalancedTrainingSampler":
        """Of labels, annotations or label maps, see :meth:`.EpochSampler.from_records`."""
        images = images_by_class(count_occurrences(cfg, dataset_dicts))
        _check_classes(cls, images, dataset_dicts)
        return cls([*images.values()], classes=[*images], seed=seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw classes, then images."""
        count = len(self._images)
        place, within = torch.rand(2, count, dtype=torch.float64, generator=generator)
        ends = self.class_weights().cumsum(0)
        # At most the last: the products may round up to the end.
        drawn = torch.searchsorted(ends, place * ends[-1], right=True).clamp(max=len(ends) - 1)
        sizes = self._sizes[drawn]
        starts = (self._sizes.cumsum(0) - self._sizes)[drawn]
        return self._images[starts + torch.minimum((within * sizes).long(), sizes - 1)]

    def class_weights(self) -> Tensor:
        """What the probability of each class that occurs is proportional to, (K',) float64."""
        return self._sizes.double().pow(self.exponent)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that can be drawn: classes (0..K-1) and images, (M,) int64, and how probable it is.

        P(c, i) = P(c) / n_c, (M,) float64.
        """
        weights = self.class_weights()
        each = (weights / weights.sum() / self._sizes).repeat_interleave(self._sizes)
        return self._classes.repeat_interleave(self._sizes), self._images, each

    def shares(self, size: int) -> Tensor:
        """Sum over the classes of an image, see :meth:`.EpochSampler.shares`."""
        _, images, probabilities = self.pairs()
        return torch.zeros(size, dtype=torch.float64).index_add_(0, images, probabilities)

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
        without_maps = [
            {k: r[k] for k in ("label", "annotations") if k in r} for r in dataset_dicts
        ]
        images = images_by_class(count_occurrences(CfgNode(), without_maps))
        _check_classes(cls, images, dataset_dicts)
        return [*images.values()]


@SAMPLER_REGISTRY.register()
class SquareRootTrainingSampler(ClassBalancedTrainingSampler):
    """A class is drawn with q = 1/2, between balanced classes (0) and equal images (1)."""

    exponent = 0.5


@SAMPLER_REGISTRY.register()
class RareClassTrainingSampler(ClassBalancedTrainingSampler):
    """A class is drawn the more often the rarer it is, then an image (DAFormer).

    P(c) = exp((1 - f_c) / T) / sum_k exp((1 - f_k) / T) over the classes that occur (Hoyer et al.,
    CVPR 2022, arXiv 2111.14887), where f_c is the part of all labelled pixels that are of the
    class; here of all instances, or images, where these are what is labelled.
    """

    def __init__(
        self,
        images_by_class: Sequence[Sequence[int]],
        counts: Sequence[int],
        temperature: float,
        *,
        classes: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> None:
        """Set the images, and how rare their classes are.

        Args:
            images_by_class: see :class:`ClassBalancedTrainingSampler`.
            counts: (K') pixels, instances or images of the classes, > 0.
            temperature: T > 0; the larger, the more alike the classes are drawn.
            classes: see :class:`ClassBalancedTrainingSampler`.
            seed: see :class:`.EpochSampler`.

        Raises:
            ValueError: the temperature is not positive; or see
                :class:`ClassBalancedTrainingSampler`.
        """
        # Not "temperature <= 0": that would let NaN pass.
        if not temperature > 0:
            raise ValueError(f"DATALOADER.RARE_CLASS_TEMPERATURE must be > 0, got {temperature}")
        super().__init__(images_by_class, classes=classes, seed=seed)
        counted = torch.tensor(list(counts), dtype=torch.float64)
        self._weights = ((1 - counted / counted.sum()) / temperature).softmax(0)

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "RareClassTrainingSampler":
        """With DATALOADER.RARE_CLASS_TEMPERATURE, see :meth:`.EpochSampler.from_records`."""
        occurrences = count_occurrences(cfg, dataset_dicts)
        images, counts = images_by_class(occurrences), total_counts(occurrences)
        _check_classes(cls, images, dataset_dicts)
        temperature = cfg.DATALOADER.RARE_CLASS_TEMPERATURE
        return cls(
            [*images.values()], [*counts.values()], temperature, classes=[*images], seed=seed
        )

    def class_weights(self) -> Tensor:
        """P(c), (K',) float64."""
        return self._weights


def _check_classes(
    owner: type, images: dict[int, list[int]], dataset_dicts: Sequence[dict]
) -> None:
    if not images:
        raise ValueError(
            f"{owner.__name__}: none of the {len(dataset_dicts)} images has a label or annotations "
            "or a label map to draw a class from; use DATALOADER.SAMPLER_TRAIN TrainingSampler"
        )
