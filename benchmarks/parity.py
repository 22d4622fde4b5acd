# SPDX-License-Identifier: Apache-2.0
"""How two functions of the same tensors are compared, for method_parity.py.

Shapes: any.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

TRANSCRIPTION = "transcription"
# Bound and limit: formulas in float64, those with a constant that is kept in float32, such as class
# weights, and what a numerical fit ends at.
EXACT, FLOAT32, FITTED = (1e-12, ""), (1e-6, "float32"), (1e-6, "fit")
Function = Callable[..., Tensor]


class Comparison(NamedTuple):
    """The differences of one method on one task, relative to the largest number of the other side.

    Attributes:
        kind: of :data:`longtail.config.projects.KINDS`.
        method: its name, as ``longtail methods`` lists it.
        task: ``"images"``, ``"pixels"`` or ``"boxes"``.
        against: :data:`TRANSCRIPTION` or a package.
        value: max |ours - other| / max |other|; of samplers, of the expected frequencies.
        gradient: the same of the gradients; None where nothing has one.
        bound: what neither may exceed.
        limit: what keeps it from being exact: ``""``, ``"float32"`` or ``"fit"``, of an optimizer.
        classes: the numbers of classes that were compared.
    """

    kind: str
    method: str
    task: str
    against: str
    value: float
    gradient: float | None
    bound: float
    limit: str
    classes: tuple[int, ...]


def difference(own: Tensor, other: Tensor) -> float:
    """Largest difference, max |own - other| / max |other|.

    Raises:
        ValueError: shapes differ, or numbers that are not finite, or zeros alone.
    """
    if own.shape != other.shape:
        raise ValueError(f"ours is {tuple(own.shape)}, the other {tuple(other.shape)}")
    largest = other.abs().max()
    if not (own.isfinite().all() and largest.isfinite() and largest > 0):
        raise ValueError("there are no numbers to compare: not finite, or zeros alone")
    return float((own.double() - other).abs().max() / largest)


def differences(own: Function, other: Function, *inputs: Tensor) -> tuple[float, float]:
    """Compare two functions and their gradients by all inputs.

    Args:
        own: ours, of the inputs to a tensor; called once.
        other: the other one; called once, from the same random state.
        inputs: float64.

    Returns:
        The differences of the values, and the largest one of the gradients of a weighted sum.
    """
    found = []
    for function in (own, other):
        torch.manual_seed(0)
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        # Varied: equal ones would cancel on probabilities, which add up to 1.
        weights = 1.5 + torch.arange(value.numel(), dtype=torch.float64).cos().view(value.shape)
        found.append((value.detach(), torch.autograd.grad((weights * value).sum(), leaves)))
    (value, slopes), (expected, expected_slopes) = found
    pairs = zip(slopes, expected_slopes, strict=True)
    return difference(value, expected), max(difference(*pair) for pair in pairs)


def largest(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The largest value and the largest gradient of some results of :func:`differences`."""
    values, gradients = zip(*pairs, strict=True)
    return max(values), max(gradients)
