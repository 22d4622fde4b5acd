# SPDX-License-Identifier: Apache-2.0
"""Differences between detectron2 0.6 and its current main; no other module knows them.

What the two have in common is used as it is: evaluation, above all, is ours for both (a class
without ground truth counts in the mean IoU of 0.6's evaluator, and not in main's; metadata of LVIS
have counts of the classes in main alone).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, defaults
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling.roi_heads import cascade_rcnn
from detectron2.utils import comm
from torch import Tensor, nn


def create_local_process_group(processes_per_machine: int) -> None:
    """Tell ``detectron2.utils.comm`` which processes share a machine.

    0.6 leaves this to its launcher alone; main has a function for it.

    Args:
        processes_per_machine: the same on every machine.
    """
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_per_machine)
        return
    machines = dist.get_world_size() // processes_per_machine
    for machine in range(machines):
        first = machine * processes_per_machine
        group = dist.new_group(list(range(first, first + processes_per_machine)))
        if dist.get_rank() // processes_per_machine == machine:
            comm._LOCAL_PROCESS_GROUP = group


def forget_process_groups() -> None:
    """Let ``detectron2.utils.comm`` hold no process group any more, before they are destroyed."""
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()


@contextmanager
def plain_config_text() -> Iterator[None]:
    """Let ``default_setup`` log configs without colours, which would be in ``log.txt`` as well."""
    coloured = defaults._highlight
    defaults._highlight = lambda code, filename: code
    try:
        yield
    finally:
        defaults._highlight = coloured


class StatefulTrainer(DefaultTrainer):
    """Save the optimizer's state in checkpoints, as main does; 0.6 leaves it out."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the hooks, the optimizer and the scaler of gradients."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        # Not main's, which would load the optimizer's state twice.
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])


def own_class_losses(cfg: CfgNode) -> list[str]:
    """The keys that turn class losses of detectron2's own box classifier on; 0.6 has none.

    Args:
        cfg: the complete config.
    """
    keys = ("USE_SIGMOID_CE", "USE_FED_LOSS")
    on = [key for key in keys if cfg.MODEL.ROI_BOX_HEAD.get(key, False)]
    return [f"MODEL.ROI_BOX_HEAD.{key}" for key in on]


def has_sigmoid(predictor: nn.Module) -> bool:
    """Whether a box classifier of detectron2's own has sigmoids; those of 0.6 have a softmax.

    Args:
        predictor: output layers of ROI heads, or any other module.
    """
    return getattr(predictor, "use_sigmoid_ce", False)


class _Identity:
    """In the place of a function that changes gradients alone."""

    @staticmethod
    def apply(x: Tensor, _: float) -> Tensor:
        return x


@contextmanager
def traceable_roi_heads() -> Iterator[None]:
    """Put aside what keeps detectron2's ROI heads from being traced, for a while.

    ``len`` makes a constant of the number of proposals; detectron2 has a context for that. And 0.6
    scales the gradients of a cascade, by a Python function, also in evaluation mode.
    """
    # Imported late: where Caffe2 is missing, which 0.6 asks for, only tracing does not work.
    from detectron2.export.torchscript_patch import patch_builtin_len

    scale_gradient = cascade_rcnn._ScaleGradient
    cascade_rcnn._ScaleGradient = _Identity
    try:
        with patch_builtin_len():
            yield
    finally:
        cascade_rcnn._ScaleGradient = scale_gradient
