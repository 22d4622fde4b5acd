# SPDX-License-Identifier: Apache-2.0
"""Optimizers and learning rate schedules of the papers' recipes."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from fvcore.common.param_scheduler import ParamScheduler
from timm import layers
from torch import nn

# detectron2's list lacks root mean square normalisation.
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    layers.RmsNorm,
    layers.RmsNorm2d,
    layers.SimpleNorm,
    layers.SimpleNorm2d,
)


class PolyFloorParamScheduler(ParamScheduler):
    """Polynomial decay to a floor, relative to the initial value.

    m(t) = (1 - f) (1 - t)^p + f,    t in [0, 1]
    """

    def __init__(self, power: float, floor: float) -> None:
        """Set the exponent and the floor of the decay.

        Args:
            power: p > 0.
            floor: f in [0, 1], the final value.

        Raises:
            ValueError: the floor is out of range.
        """
        if not 0 <= floor <= 1:
            raise ValueError(
                "SOLVER.POLY_LR_FLOOR must lie between 0 and SOLVER.BASE_LR, "
                f"got {floor:g} times BASE_LR"
            )
        self.power = power
        self.floor = floor

    def __call__(self, where: float) -> float:
        """The multiplier at a fraction ``where`` of the training."""
        return (1 - self.floor) * (1 - where) ** self.power + self.floor


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """``WarmupPolyFloorLR``, or any of detectron2's schedules, by ``SOLVER.LR_SCHEDULER_NAME``.

    Raises:
        ValueError: detectron2 has no such schedule; or ``BASE_LR`` is not positive, or below the
            floor.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyFloorLR":
        try:
            return build_detectron2_scheduler(cfg, optimizer)
        except ValueError as error:
            raise ValueError(
                f"SOLVER.LR_SCHEDULER_NAME {solver.LR_SCHEDULER_NAME!r}: {error}; expected "
                "WarmupPolyFloorLR, WarmupMultiStepLR, WarmupCosineLR, or what else detectron2 has"
            ) from None
    if solver.BASE_LR <= 0:
        raise ValueError(f"SOLVER.BASE_LR must be > 0, got {solver.BASE_LR}")
    schedule = WarmupParamScheduler(
        PolyFloorParamScheduler(solver.POLY_LR_POWER, solver.POLY_LR_FLOOR / solver.BASE_LR),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW with the config's rules for learning rates and weight decay.

    Weight decay is ``WEIGHT_DECAY``, but ``WEIGHT_DECAY_NORM`` for normalisation layers,
    ``WEIGHT_DECAY_BIAS`` for biases, and 0 for what a pattern of ``NO_DECAY_PARAMS`` names and for
    what a module of the model names in an attribute ``no_decay_params``. The learning rate is
    ``BASE_LR``, times ``BIAS_LR_FACTOR`` for biases, times the factor of :func:`layer_factors`.

    Args:
        cfg: its SOLVER is read.
        model: what requires a gradient is optimised.

    Raises:
        ValueError: an unknown optimizer; or as :func:`layer_factors`.
    """
    solver = cfg.SOLVER
    params = parameter_groups(cfg, model)
    if solver.OPTIMIZER == "SGD":
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
        return optimizer(
            params, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if solver.OPTIMIZER == "AdamW":
        return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(params, lr=solver.BASE_LR)
    raise ValueError(f"SOLVER.OPTIMIZER must be 'SGD' or 'AdamW', got {solver.OPTIMIZER!r}")


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """The parameters that require a gradient, in as few groups as :func:`build_optimizer` needs.

    Raises:
        ValueError: a pattern in NO_DECAY_PARAMS that names no parameter; or as
            :func:`layer_factors`.
    """
    solver = cfg.SOLVER
    no_decay = _without_decay(model, solver.NO_DECAY_PARAMS)
    factors = layer_factors(model, solver.LAYER_DECAY)
    groups = []
    seen = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            rate, decay = solver.BASE_LR * factors.get(parameter, 1.0), solver.WEIGHT_DECAY
            if isinstance(module, NORMS) and solver.WEIGHT_DECAY_NORM is not None:
                decay = solver.WEIGHT_DECAY_NORM
            if name == "bias":
                rate *= solver.BIAS_LR_FACTOR
                if solver.WEIGHT_DECAY_BIAS is not None:
                    decay = solver.WEIGHT_DECAY_BIAS
            if parameter in no_decay:
                decay = 0.0
            groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    return reduce_param_groups(groups)


def _without_decay(model: nn.Module, patterns: Sequence[str]) -> set[nn.Parameter]:
    """Parameters that are exempt from weight decay by their names.

    Args:
        model: its modules may name more, in an attribute ``no_decay_params``.
        patterns: shell patterns, each of last names or of whole ones.

    Raises:
        ValueError: a pattern that names no parameter.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    own = {name for module in model.modules() for name in getattr(module, "no_decay_params", ())}
    found = {parameter for name, parameter in named.items() if name.rpartition(".")[2] in own}
    for pattern in patterns:
        matches = {p for name, p in named.items() if _names(pattern, name)}
        if not matches:
            last = sorted({name.rpartition(".")[2] for name in named})
            raise ValueError(
                f"SOLVER.NO_DECAY_PARAMS: {pattern!r} names no parameter of the model, whose last "
                f"names are {', '.join(last)}: correct the pattern or leave it out"
            )
        found |= matches
    return found


def _names(pattern: str, name: str) -> bool:
    """Tell whether it is a pattern of the whole name or of the last one."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)


def layer_factors(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Layer-wise decay of the learning rate, ``decay ** (L + 1 - l)`` in layer l of L blocks.

    Layer 0 is the embedding, l the l-th block, and L + 1 all else, which keeps its rate.

    Args:
        model: with a backbone that has ``num_layers`` (L) and ``layer_of(name)``, the layer of its
            parameter of that name; for a decay of 1 any model.
        decay: in (0, 1].

    Returns:
        Factors of the parameters of the backbone; none for a decay of 1.

    Raises:
        ValueError: a decay out of range, or a backbone whose layers are not known.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"SOLVER.LAYER_DECAY must lie in (0, 1], got {decay:g}")
    if decay == 1:
        return {}
    backbone = getattr(model, "backbone", None)
    if not hasattr(backbone, "layer_of"):
        raise ValueError(
            f"SOLVER.LAYER_DECAY {decay:g} is for vision transformers (MODEL.BACKBONE.NAME "
            f"TimmPlainBackbone); {type(backbone).__name__} has no numbered layers: set it to 1"
        )
    last = backbone.num_layers + 1
    return {p: decay ** (last - backbone.layer_of(n)) for n, p in backbone.named_parameters()}
