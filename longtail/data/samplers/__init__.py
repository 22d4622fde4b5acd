# SPDX-License-Identifier: Apache-2.0
"""Samplers: the order in which training images are drawn."""

from longtail.data.samplers.training import (
    ClassBalancedTrainingSampler,
    SquareRootTrainingSampler,
    build_train_sampler,
)

__all__ = [
    "ClassBalancedTrainingSampler",
    "SquareRootTrainingSampler",
    "build_train_sampler",
]
