# SPDX-License-Identifier: Apache-2.0
"""One training step: in full or mixed precision, on a batch at once or in parts."""

import logging
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from longtail.engine.training.accumulation import part_weights, split_batch
from longtail.engine.training.loader import TrainingLoader
from longtail.utils.randomness import derive_seed, seed_generators

AMP_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class StepTrainer(SimpleTrainer):
    """detectron2's step, on any device, with autocast and gradient accumulation.

    Losses are scaled for float16 alone: bfloat16 has float32's range, so that nothing underflows
    which scaling could save.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        device: str,
        *,
        seed: int = 0,
        dtype: str | None = None,
        accumulation_steps: int = 1,
    ) -> None:
        """Prepare detectron2's loop for mixed precision and accumulated gradients.

        Args:
            model: gives a dict of losses for a batch, as for detectron2's SimpleTrainer.
            data_loader: gives batches without end.
            optimizer: of the parameters of ``model``.
            device: type of device, such as ``"cuda"`` or ``"cpu"``.
            seed: of all that the model draws, by iteration and rank.
            dtype: of mixed precision, ``"float16"`` or ``"bfloat16"``; None for full precision.
            accumulation_steps: equal parts that a batch is divided into, >= 1.

        Raises:
            ValueError: another type, or no positive number of parts.
        """
        if dtype is not None and dtype not in AMP_TYPES:
            raise ValueError(f"SOLVER.AMP.DTYPE must be one of {list(AMP_TYPES)}, got {dtype!r}")
        if accumulation_steps < 1:
            raise ValueError(f"SOLVER.ACCUMULATION_STEPS must be >= 1, got {accumulation_steps}")
        super().__init__(model, data_loader, optimizer)
        self.device = device
        self.seed = seed
        self.position = self._loader_state()
        # What a forward pass may move: statistics and counts, which are part of checkpoints.
        state = self.model.state_dict(keep_vars=True).values()
        self._buffers = [t for t in state if not isinstance(t, nn.Parameter)]
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]
        # Whether buffers may have moved, and whether parameters have, in an unfinished step.
        self._has_begun = False
        self.is_stepping = False
        # The last iteration whose step was made.
        self.finished = -1
        self.dtype = None if dtype is None else AMP_TYPES[dtype]
        self.accumulation_steps = accumulation_steps
        self.grad_scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")

    def run_step(self) -> None:
        """Read a batch, forward and backward part by part, step.

        Raises:
            ValueError: the batch cannot be divided into equal parts.
            FloatingPointError: a loss is infinite or NaN.
        """
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.keep_buffers()
        # What the model draws is a function of the iteration: a resumed run draws it, too.
        seed_generators(derive_seed(self.seed, get_event_storage().iter, comm.get_rank()))
        parts = split_batch(data, self.accumulation_steps)
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        for index, (part, weights) in enumerate(
            zip(parts, part_weights(self.model, parts), strict=True)
        ):
            # Processes exchange the sum of the parts' gradients, once.
            with nullcontext() if index == len(parts) - 1 else self._without_exchange():
                losses = self._forward_backward(part, weights)
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach()
        self._write_metrics(totals, data_time)
        self.is_stepping = True
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.is_stepping = self._has_begun = False
        self.position = self._loader_state()
        self.finished = get_event_storage().iter

    def keep_buffers(self) -> None:
        """Copy the model's buffers: a forward pass moves them, also one whose step is not made."""
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            kept.copy_(buffer)
        self._has_begun = True

    def restore_buffers(self) -> None:
        """Put the buffers back as they were before the step that has failed."""
        if not self._has_begun:
            return
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            buffer.copy_(kept)

    def _loader_state(self) -> dict | None:
        loader = self.data_loader
        return loader.state_dict() if isinstance(loader, TrainingLoader) else None

    def _forward_backward(self, part: list[dict], weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add a part's gradients; returns what it contributes to each loss of the batch."""
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype is not None):
            losses = {
                name: loss * weights.get(name, 1 / self.accumulation_steps)
                for name, loss in self._losses(part).items()
            }
            total = sum(losses.values())
        self.grad_scaler.scale(total).backward()
        return losses

    def _losses(self, part: list[dict]) -> dict[str, Tensor]:
        try:
            return self.model(part)
        except RuntimeError as error:
            # Of DistributedDataParallel, with a page on what else it could be.
            if "finished reduction" not in str(error):
                raise
            raise ValueError(
                "with several processes every parameter must get a gradient, and some do not: let "
                "the model have no layer whose output no loss depends on (for segmentation, let "
                "MODEL.TIMM.OUT_FEATURES name only levels that MODEL.SEM_SEG_HEAD.IN_FEATURES and "
                "AUXILIARY.IN_FEATURE read)"
            ) from error

    def _without_exchange(self) -> AbstractContextManager:
        distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if distributed else nullcontext()

    def state_dict(self) -> dict:
        """detectron2's state, that of the loss scaling, the seed, the position in the data."""
        return {
            **super().state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.seed,
            "position": self.position,
            "num_processes": comm.get_world_size(),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore a :meth:`state_dict`; without a scaler's state (another type) it starts anew.

        Raises:
            ValueError: another optimizer, or one of other parameters.
        """
        own, saved = (
            [(len(group["params"]), "betas" in group) for group in optimizer["param_groups"]]
            for optimizer in (self.optimizer.state_dict(), state_dict["optimizer"])
        )
        if own != saved:
            raise ValueError(
                "--resume: the checkpoint was trained with another SOLVER.OPTIMIZER, other rules "
                "for weight decay or learning rates, or another FREEZE_AT: take them back, or "
                "start anew with MODEL.WEIGHTS"
            )
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        before, now = state_dict.get("num_processes"), comm.get_world_size()
        if before not in (None, now):
            logging.getLogger(__name__).warning(
                "the checkpoint is of %d processes, this run has %d: it continues at the same "
                "image, but what it computes agrees up to rounding and batch statistics, not in "
                "every bit",
                *(before, now),
            )
        self.seed = state_dict.get("seed", self.seed)
        self.position = state_dict.get("position")
        if self.position is not None and isinstance(self.data_loader, TrainingLoader):
            self.data_loader.load_state_dict(self.position)
