# SPDX-License-Identifier: Apache-2.0
"""Models in shards: each of P processes holds 1/P of parameters, gradients and optimizer state.

torch's ``fully_shard`` (FSDP2) gathers the parameters of a block of the backbone for as long as the
block runs, and averages gradients over the processes as DistributedDataParallel does: both compute
the same function.
"""

from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import Tensor, nn

from longtail.config import flat_config
from longtail.engine.training.stages import is_second_stage

KEY = "SOLVER.FSDP.ENABLED"
# What does not work with it, how that is told, and what to do.
REFUSED = {
    "MODEL.COMPILE": "set it to False",
    "MODEL.CHANNELS_LAST": "set it to False",
    # torch finds parameters by their names in checkpoints, which adapters change.
    "MODEL.TIMM.LORA.ENABLED": "set it to False",
    "SOLVER.CHECKPOINT_MINUTES": "set it to 0, and SOLVER.CHECKPOINT_PERIOD in its place",
    "SOLVER.BEST_CHECKPOINT_METRIC": "set it to ''",
    "TEST.AUG.ENABLED": "set it to False, and evaluate model_final.pth with --eval-only",
}


def check_sharding(cfg: CfgNode) -> None:
    """Refuse options that a sharded training cannot have.

    Args:
        cfg: the complete config.

    Raises:
        ValueError: SOLVER.FSDP.ENABLED, and there is one process alone, torch is older than 2.6,
            or one of :data:`REFUSED` is on.
    """
    if not cfg.SOLVER.FSDP.ENABLED:
        return
    if comm.get_world_size() == 1:
        raise ValueError(
            f"{KEY} divides a model among processes, and this run has one: set it to False, or "
            "start several (--num-gpus, or torchrun)"
        )
    if not hasattr(_fsdp(), "fully_shard"):
        raise ValueError(f"{KEY} needs torch 2.6 or newer, this is {torch.__version__}: update it")
    values = flat_config(cfg)
    for key, remedy in REFUSED.items():
        if values[key]:
            raise ValueError(f"{key} {values[key]} does not work with {KEY}: {remedy}")


def _fsdp() -> Any:
    # Late: it takes a while, and most runs do not need it.
    import torch.distributed.fsdp

    return torch.distributed.fsdp


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The modules that are gathered one at a time, inner ones first.

    Those are what lists (``ModuleList``) and sequences (``Sequential``) of the backbone consist of:
    the residual blocks of networks in stages, the blocks of transformers. Single layers do not
    count, nor do lists and sequences themselves: their own entries do.

    Args:
        backbone: of any kind.
    """
    containers = (nn.Sequential, nn.ModuleList)
    found: dict[nn.Module, None] = {}
    for container in (module for module in backbone.modules() if isinstance(module, containers)):
        for module in container.children():
            is_block = not isinstance(module, containers) and any(True for _ in module.children())
            if is_block and any(True for _ in module.parameters()):
                found[module] = None
    return list(found)[::-1]


def shard(model: nn.Module) -> nn.Module:
    """Divide a model among all processes, in place; it starts from rank 0's weights.

    Args:
        model: the same one in every process, on its device. Its parameters are replaced: build
            optimizers afterwards. What is loaded into it later are whole tensors, as in any
            checkpoint, of which each process keeps its part.

    Raises:
        ValueError: it is a second stage, has synchronised batch statistics, a parameter that is a
            single number, or no backbone with blocks.
    """
    _check_model(model)
    # As DistributedDataParallel does: seeds differ by rank.
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.detach(), 0)
    device = next(model.parameters()).device.type
    mesh = dist.init_device_mesh(device, (dist.get_world_size(),))
    for module in [*blocks(model.backbone), model]:
        _fsdp().fully_shard(module, mesh=mesh)
    model.register_load_state_dict_pre_hook(_cut)
    return model


def _check_model(model: nn.Module) -> None:
    problem, remedy = "", "set it to False"
    if is_second_stage(model):
        problem = "a second stage trains a few layers, for which no shards are needed"
    elif any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        problem, remedy = "it was not tried with MODEL.SYNC_BN", "set that to False"
    elif single := [name for name, p in model.named_parameters() if not p.dim()]:
        problem = f"the parameter {single[0]} is a single number, which cannot be divided"
    elif not blocks(getattr(model, "backbone", nn.Module())):
        problem = f"the backbone of {type(model).__name__} has no blocks to divide"
    if problem:
        raise ValueError(f"{KEY}: {problem}: {remedy}")


def _cut(model: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Replace whole tensors by this process's part; before a state dict is loaded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for name, own in model.state_dict().items():
        value = state.get(name)
        is_whole = isinstance(value, Tensor) and not isinstance(value, DTensor)
        if is_whole and isinstance(own, DTensor) and value.shape == own.shape:
            # Every process has the file: nothing is sent.
            state[name] = distribute_tensor(
                value.to(own.device), own.device_mesh, own.placements, src_data_rank=None
            )


def whole_state(model: nn.Module, *, on_main: bool = False) -> dict[str, Tensor]:
    """Gather the tensors of a sharded model; all processes call it together.

    Args:
        model: what :func:`shard` gave.
        on_main: gather them on the CPU of rank 0; others get an empty dict.

    Returns:
        Names and tensors as those of the model before it was sharded.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=on_main)
    return get_model_state_dict(model, options=options)


def whole_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """A model like a sharded one that each process can run alone; all call it together.

    Processes test different numbers of images: they cannot gather blocks together on the way.

    Args:
        cfg: of the model.
        model: what :func:`shard` gave.
    """
    whole = build_model(cfg)
    whole.load_state_dict(whole_state(model))
    return whole.train(model.training)
