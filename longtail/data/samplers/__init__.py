# SPDX-License-Identifier: Apache-2.0
"""Samplers: the order in which training images are drawn."""

from longtail.data.samplers.training import (
    SAMPLER_REGISTRY,
    ClassBalancedTrainingSampler,
    EpochSampler,
    SquareRootTrainingSampler,
    build_train_sampler,
)

__all__ = [
    "SAMPLER_REGISTRY",
    "ClassBalancedTrainingSampler",
    "EpochSampler",
    "SquareRootTrainingSampler",
    "build_train_sampler",
]
