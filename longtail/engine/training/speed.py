# SPDX-License-Identifier: Apache-2.0
"""Faster models that compute the same function: memory format and compilation."""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from longtail.modeling import SemSegHead
from longtail.utils.errors import first_line


def apply_speed_options(cfg: CfgNode, model: nn.Module) -> None:
    """Apply ``MODEL.CHANNELS_LAST`` and ``MODEL.COMPILE``, in place; tensors keep their names.

    Compiled are, in training, the backbone and, of our semantic heads, all up to the pixel
    classifier, which stays a module that is called, with its hooks. Other heads and the auxiliary
    one, which is small, run as they are, and so does everything in testing: compilation takes a
    minute for each size of images, and test images have many. After torch's limit of sizes (8)
    others run as they are in training, too.

    Args:
        cfg: read for these keys and MODEL.DEVICE.
        model: any detectron2 model.

    Raises:
        ValueError: there is nothing to compile, or torch.compile does not work here.
    """
    if cfg.MODEL.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if not cfg.MODEL.COMPILE:
        return
    if not hasattr(model, "backbone"):
        raise ValueError(
            f"MODEL.COMPILE compiles a model's backbone, and {type(model).__name__} has none: set "
            "it to False"
        )
    _check_compiler(torch.device(cfg.MODEL.DEVICE))
    _compile_training(model.backbone, "forward")
    # The first one: it may be in a wrapper, and the auxiliary head is in it.
    head = next((module for module in model.modules() if isinstance(module, SemSegHead)), None)
    if head is not None:
        _compile_training(head, "stages")


def _compile_training(module: nn.Module, method: str) -> None:
    eager = getattr(module, method)
    # Shapes as symbols take minutes where there are windows, and were compiled anew nevertheless.
    compiled = torch.compile(eager, dynamic=False)

    def call(*args: Any) -> Any:
        return (compiled if module.training else eager)(*args)

    setattr(module, method, call)


def _check_compiler(device: torch.device) -> None:
    """Compile something small: what it needs (compiler, headers, Triton) no list tells for sure."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(4, device=device))
    # Each tool that is missing fails in a way of its own.
    except Exception as error:
        raise ValueError(
            f"MODEL.COMPILE: torch.compile does not work here on {device.type} "
            f"({first_line(error)}): it needs a C++ compiler, and on GPUs Triton; install them or "
            "set MODEL.COMPILE False"
        ) from None
