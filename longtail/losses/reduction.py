# SPDX-License-Identifier: Apache-2.0
"""Means of losses: over the samples of all processes, in float32 at least.

With several processes every mean is taken over the whole batch: the average of the processes'
losses, and of their gradients, is what one process with all samples would compute.
"""

import torch
import torch.distributed as dist
from torch import Tensor

# No label is left out: which samples count is decided before.
NO_LABEL = -100


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in the type that losses are computed in: float32, or float64 where they are that."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor, the same shape in all processes, over these; without a gradient."""
    values = values.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def mean_over_processes(count: Tensor) -> Tensor:
    """The average of a count over all processes, for use as a loss's denominator.

    Args:
        count: a scalar >= 0, such as this process's number of valid pixels.

    Returns:
        A scalar that is the same everywhere; 1 where all counts are zero, so that 0 / it is 0.
    """
    count = sum_over_processes(count)
    if dist.is_available() and dist.is_initialized():
        count /= dist.get_world_size()
    return torch.where(count > 0, count, torch.ones_like(count))


def total_weight(
    labels: Tensor, class_weight: Tensor | None, ignore_label: int = NO_LABEL
) -> Tensor:
    """The denominator of a mean, or of a weighted mean, over samples.

    Args:
        labels: integers of any shape, 0..K-1 or ``ignore_label``.
        class_weight: (K,) weights w >= 0, or None for 1.
        ignore_label: label of the samples that are left out.

    Returns:
        sum_i w(y_i) over the samples that count, a scalar on the labels' device.
    """
    valid = labels != ignore_label
    if class_weight is None:
        return valid.sum().float()
    # No selection of the valid ones: a GPU would have to wait until their number is known.
    weights = class_weight.to(labels.device)[labels.where(valid, 0).long()]
    return weights.where(valid, 0).sum()
