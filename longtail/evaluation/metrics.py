# SPDX-License-Identifier: Apache-2.0
"""Metrics that more than one task reports, as pure functions.

Shapes: K classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch


def check_finite(values: torch.Tensor, what: str) -> None:
    """Refuse what a model gives once it has diverged: metrics of it would look like others.

    Args:
        values: of any shape, on any device.
        what: they are, and of which image, for the message.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    if not torch.isfinite(values).all():
        raise ValueError(
            f"{what} are not finite (NaN or infinite): the model has diverged, evaluate an earlier "
            "checkpoint, or train with a lower learning rate"
        )


def grouped_mean(
    values: torch.Tensor | np.ndarray | Sequence[float], groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Average the classes of each group, without the NaN ones.

    Args:
        values: (K,) one value per class.
        groups: class indices (0..K-1) of each group, by the group's name.

    Returns:
        The mean of each group, in the order of ``groups``; NaN where no class has a value.

    Raises:
        ValueError: ``values`` is not one-dimensional or an index is out of range.
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    if values.dim() != 1:
        raise ValueError(f"grouped_mean: expected (K,) values, got {tuple(values.shape)}")
    means = {}
    for name, classes in groups.items():
        outside = [c for c in classes if not 0 <= c < len(values)]
        if outside:
            raise ValueError(
                f"grouped_mean: group {name!r} has class {outside[0]}, "
                f"but there are only classes 0..{len(values) - 1}; correct the groups"
            )
        means[name] = values[list(classes)].nanmean().item()
    return means
