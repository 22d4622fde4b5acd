# SPDX-License-Identifier: Apache-2.0
"""Samplers that repeat images of rare classes within an epoch.

Shapes: N images, K classes.
"""

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import samplers as detectron2_samplers
from torch import Tensor

from longtail.data.samplers.occurrences import Occurrences, count_occurrences, total_counts
from longtail.data.samplers.training import SAMPLER_REGISTRY, EpochSampler


@SAMPLER_REGISTRY.register()
class RepeatFactorTrainingSampler(EpochSampler):
    """Images of rare classes several times an epoch (Gupta et al. 2019), in random order."""

    def __init__(self, repeat_factors: Tensor, *, seed: int | None = None) -> None:
        """Take how often each image is repeated.

        Args:
            repeat_factors: (N,) how often an image is in an epoch, >= 1; of a fraction, that is
                the probability of once more.
            seed: see :class:`.EpochSampler`.
        """
        super().__init__(seed)
        self.repeat_factors = repeat_factors

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "RepeatFactorTrainingSampler":
        """With DATALOADER.REPEAT_THRESHOLD, see :meth:`.EpochSampler.from_records`."""
        return cls(_repeat_factors(cfg, dataset_dicts), seed=seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Repeat the images, then permute them."""
        whole = self.repeat_factors.floor()
        once_more = torch.rand(len(whole), generator=generator) < self.repeat_factors - whole
        repeats = whole.long() + once_more
        images = torch.arange(len(whole)).repeat_interleave(repeats)
        return images[torch.randperm(len(images), generator=generator)]

    def shares(self, size: int) -> Tensor:
        """r_i / sum_k r_k, see :meth:`.EpochSampler.shares`."""
        factors = self.repeat_factors.double()
        return factors / factors.sum()


@SAMPLER_REGISTRY.register()
class InstanceAwareRepeatFactorTrainingSampler(RepeatFactorTrainingSampler):
    """Repeat factors by the images and the instances of a class (Yaman et al. 2023).

    r_c = max(1, sqrt(t / sqrt(f_c g_c))), with f_c the part of the images that have the class and
    g_c its part of all instances (arXiv 2305.08069); an image is repeated as its class of the
    largest r_c says.
    """

    # A label map has no instances, and an image that is one class is one.
    instances_alone = True

    @classmethod
    def from_records(
        cls, cfg: CfgNode, dataset_dicts: Sequence[dict], *, seed: int | None = None
    ) -> "InstanceAwareRepeatFactorTrainingSampler":
        """With DATALOADER.REPEAT_THRESHOLD, see :meth:`.EpochSampler.from_records`."""
        without = [r.get("file_name") for r in dataset_dicts if "annotations" not in r]
        if without or not dataset_dicts:
            raise ValueError(
                f"{cls.__name__} repeats images by their instances, but {len(without)} records "
                f"(such as {next(iter(without), None)}) have no 'annotations'; use "
                "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler"
            )
        occurrences = count_occurrences(cfg, dataset_dicts)
        factors = instance_aware_repeat_factors(occurrences, cfg.DATALOADER.REPEAT_THRESHOLD)
        return cls(factors, seed=seed)


def instance_aware_repeat_factors(occurrences: Occurrences, threshold: float) -> Tensor:
    """Compute r_i = max over the classes c of an image of max(1, sqrt(t / sqrt(f_c g_c))).

    Args:
        occurrences: instances by class of N images.
        threshold: t >= 0.

    Returns:
        (N,) float64, 1 for images without instances.
    """
    instances = total_counts(occurrences)
    total = sum(instances.values())
    images = total_counts([dict.fromkeys(classes, 1) for classes in occurrences])
    factors = {
        category: max(
            1.0,
            math.sqrt(
                threshold
                / math.sqrt(images[category] / len(occurrences) * instances[category] / total)
            ),
        )
        for category in instances
    }
    repeats = [max((factors[c] for c in classes), default=1.0) for classes in occurrences]
    return torch.tensor(repeats, dtype=torch.float64)


def _repeat_factors(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> Tensor:
    # detectron2 would only say: KeyError: 'annotations'.
    kinds = ("annotations", "label", "sem_seg_file_name")
    without = [r.get("file_name") for r in dataset_dicts if not any(kind in r for kind in kinds)]
    if without:
        raise ValueError(
            "RepeatFactorTrainingSampler repeats images by their classes, but "
            f"{len(without)} records (such as {without[0]}) have no 'annotations', 'label' or "
            "'sem_seg_file_name'; use DATALOADER.SAMPLER_TRAIN TrainingSampler"
        )
    if not all("annotations" in record for record in dataset_dicts):
        # One annotation a class: it counts images alone.
        dataset_dicts = [
            {"annotations": [{"category_id": category} for category in classes]}
            for classes in count_occurrences(cfg, dataset_dicts)
        ]
    kind = detectron2_samplers.RepeatFactorTrainingSampler
    return kind.repeat_factors_from_category_frequency(
        dataset_dicts, cfg.DATALOADER.REPEAT_THRESHOLD
    )
