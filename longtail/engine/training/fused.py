# SPDX-License-Identifier: Apache-2.0
"""Optimizers whose step is one pass over the parameters, where the device can do that."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def fused_where_possible(
    kind: type[torch.optim.Optimizer], groups: Iterable[dict[str, Any]], **options: Any
) -> torch.optim.Optimizer:
    """Build an optimizer with ``fused=True``, or the plain one where there is no such kernel.

    The update is the same up to rounding. A checkpoint of either continues in the other: the
    kernel is that of this device, whatever the checkpoint says.

    Args:
        kind: torch's ``SGD`` or ``AdamW``, or a class derived from one.
        groups: of parameters, with their own options; they are not changed.
        options: the arguments of ``kind``.
    """
    groups = list(groups)
    if any(hasattr(parameter, "to_local") for group in groups for parameter in group["params"]):
        # Of a sharded model: torch has no fused step of SGD for those.
        return kind(groups, **options)
    try:
        # The constructor adds its defaults to what it is given.
        optimizer = kind([dict(group) for group in groups], fused=True, **options)
    except (RuntimeError, TypeError):  # not on this device, or not with these types or this torch
        optimizer = kind(groups, **options)
    optimizer.register_load_state_dict_pre_hook(_keep_kernel)
    optimizer.register_load_state_dict_post_hook(_match_state)
    optimizer.register_step_pre_hook(_match_gradients)
    return optimizer


def _keep_kernel(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Let groups of a checkpoint have the kernel that the optimizer was built with."""
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [{**saved, "fused": own.get("fused")} for saved, own in pairs]
    return {**state, "param_groups": groups}


def _match_state(optimizer: torch.optim.Optimizer) -> None:
    """Lay the state out as its parameter: a checkpoint may be of another memory format."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            is_part = isinstance(value, Tensor) and value.shape == parameter.shape
            if is_part and not _is_like(value, parameter):
                state[name] = _laid_out(value, parameter)


def _match_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Lay gradients out as their parameters, as backward passes do.

    On a CPU the fused kernels read memory in order and do not look at strides: what is laid out in
    another way they take for other elements, without an error.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and not _is_like(gradient, parameter):
                parameter.grad = _laid_out(gradient, parameter)


def _is_like(value: Tensor, parameter: Tensor) -> bool:
    """Tell whether tensors of one shape have the same order in memory."""
    sides = zip(value.shape, value.stride(), parameter.stride(), strict=True)
    return all(own == wanted for side, own, wanted in sides if side > 1)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
