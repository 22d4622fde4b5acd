# SPDX-License-Identifier: Apache-2.0
"""Samplers: the order in which training images are drawn."""

from longtail.data.samplers.by_class import (
    ClassBalancedTrainingSampler,
    RareClassTrainingSampler,
    SquareRootTrainingSampler,
)
from longtail.data.samplers.repeating import (
    InstanceAwareRepeatFactorTrainingSampler,
    RepeatFactorTrainingSampler,
)
from longtail.data.samplers.training import (
    SAMPLER_REGISTRY,
    EpochSampler,
    RandomSubsetTrainingSampler,
    TrainingSampler,
    build_train_sampler,
)

__all__ = [
    "SAMPLER_REGISTRY",
    "ClassBalancedTrainingSampler",
    "EpochSampler",
    "InstanceAwareRepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
    "RareClassTrainingSampler",
    "RepeatFactorTrainingSampler",
    "SquareRootTrainingSampler",
    "TrainingSampler",
    "build_train_sampler",
]
