"""Optimizers and learning rate schedules of the papers' recipes."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn


class PolyFloorParamScheduler(ParamScheduler):
    """Polynomial decay to a floor, relative to the initial value.

    m(t) = (1 - f) (1 - t)^p + f,    t in [0, 1]
    """

    def __init__(self, power: float, floor: float) -> None:
        """
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
        ValueError: ``BASE_LR`` is not positive, or below the floor.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyFloorLR":
        return build_detectron2_scheduler(cfg, optimizer)
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
    """SGD or AdamW with the config's rules for weight decay.

    Weight decay is ``WEIGHT_DECAY``, but ``WEIGHT_DECAY_NORM`` for normalisation layers,
    ``WEIGHT_DECAY_BIAS`` for biases and 0 for ``NO_DECAY_PARAMS`` and for what the model itself
    names in an attribute ``no_decay_params``.

    Args:
        cfg: its SOLVER is read.
        model: what requires a gradient is optimised.

    Raises:
        ValueError: an unknown optimizer.
    """
    solver = cfg.SOLVER
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        overrides={
            name: {"weight_decay": 0.0}
            for name in (*solver.NO_DECAY_PARAMS, *getattr(model, "no_decay_params", ()))
        },
    )
    if solver.OPTIMIZER == "SGD":
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
        return optimizer(
            params, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if solver.OPTIMIZER == "AdamW":
        return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(params, lr=solver.BASE_LR)
    raise ValueError(f"SOLVER.OPTIMIZER must be 'SGD' or 'AdamW', got {solver.OPTIMIZER!r}")
