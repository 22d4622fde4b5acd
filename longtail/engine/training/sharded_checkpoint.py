# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of sharded models: a folder in which each process writes its part.

``model_NNNNNNN.sharded`` holds tensors as torch.distributed.checkpoint writes them and, in
``rest.pth``, plain values: the position in the data, learning rates, the iteration.
"""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from detectron2.utils import comm
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata

from longtail.engine.checkpoint import Checkpointer, load_tensors
from longtail.engine.run_folder import REST, SHARDED
from longtail.engine.shards import ShardReader
from longtail.engine.training.sharding import KEY, whole_state
from longtail.utils.errors import one_line
from longtail.utils.io import atomic_write, sync_folder

MODEL = "model."
OPTIMIZER = "optimizer."


class ShardedCheckpointer(Checkpointer):
    """A checkpointer whose checkpoints are folders; ``model_final.pth`` is whole, as ever.

    All processes save and load together.
    """

    # Whose state is saved in shards; it is of the parameters of the sharded model.
    optimizer: torch.optim.Optimizer

    def save(self, name: str, **extra: Any) -> None:
        """Write ``name.sharded``; for ``model_final`` that of the iteration, and the weights.

        A run that is killed meanwhile leaves the earlier checkpoint and its tag in place.

        Args:
            name: of the folder, without ending.
            extra: as in :meth:`.Checkpointer.save`, with ``iteration``.

        Raises:
            OSError: a process could not write its part.
        """
        is_final = name == "model_final"
        if is_final:
            name = f"model_{extra['iteration']:07d}"
        folder = Path(self.save_dir) / f"{name}{SHARDED}"
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
        temporary = comm.all_gather(temporary)[0]
        rest = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        tensors = {f"{MODEL}{key}": value for key, value in self.model.state_dict().items()}
        tensors |= _take_optimizer(rest)
        try:
            dcp.save(
                tensors,
                storage_writer=dcp.FileSystemWriter(temporary),
                # What all have, such as batch statistics, is rank 0's, as in any checkpoint.
                planner=dcp.DefaultSavePlanner(dedup_save_to_lowest_rank=True),
            )
        except CheckpointException as error:
            _on_main(lambda: shutil.rmtree(temporary, ignore_errors=True))
            raise _write_error(error, folder) from error

        def finish() -> None:
            with atomic_write(temporary / REST, "wb") as file:
                torch.save({**rest, **self._notes(), **extra}, file)
            if folder.exists():
                # Of this iteration, before a resume from an earlier one.
                shutil.rmtree(folder)
            os.replace(temporary, folder)
            sync_folder(folder.parent)
            self.tag_last_checkpoint(folder.name)

        _on_main(finish)
        if is_final:
            self.save_weights("model_final")

    def save_weights(self, name: str) -> None:
        """Write ``name.pth`` with the whole weights alone, gathered on the CPU of rank 0.

        Args:
            name: file name without ending.
        """
        state = whole_state(self.model, on_main=True)

        def write() -> None:
            with atomic_write(os.path.join(self.save_dir, f"{name}.pth"), "wb") as file:
                torch.save({"model": state, **self._notes()}, file)

        _on_main(write)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a folder of shards, or the weights of a whole checkpoint.

        Raises:
            ValueError: the run to be resumed was not sharded; or its shards are of another model;
                or as :meth:`.Checkpointer.load`.
        """
        if not self.resuming:
            return super().load(path, *args, **kwargs)
        if not path.endswith(SHARDED):
            raise ValueError(
                f"--resume: {path} was written without {KEY}: set it to False, or start anew with "
                "MODEL.WEIGHTS"
            )
        self._path = path
        self.logger.info("[Checkpointer] Loading from %s ...", path)
        rest = load_tensors(os.path.join(path, REST))
        self._compare_classes(rest)
        reader = ShardReader(path)
        metadata = reader.read_metadata()
        tensors = {f"{MODEL}{key}": value for key, value in self.model.state_dict().items()}
        self._check_shapes(tensors, metadata)
        optimizer = self._room_for_optimizer(metadata)
        # In place: those of the model are the model's own.
        dcp.load({**tensors, **optimizer}, storage_reader=reader)
        _put_optimizer(rest, optimizer)
        for key, part in self.checkpointables.items():
            part.load_state_dict(rest.pop(key))
        return rest

    def _check_shapes(self, tensors: dict[str, Tensor], metadata: Metadata) -> None:
        saved = {
            key: tuple(value.size)
            for key, value in metadata.state_dict_metadata.items()
            if key.startswith(MODEL)
        }
        own = {key: tuple(value.shape) for key, value in tensors.items()}
        for key in sorted(own.keys() | saved.keys()):
            if own.get(key) != saved.get(key):
                raise ValueError(
                    f"--resume: {self._path} is of another model: {key.removeprefix(MODEL)} is "
                    f"{saved.get(key, 'missing')}, expected {own.get(key, 'none')} (shape); take "
                    "the config back, or start anew in another OUTPUT_DIR"
                )

    def _room_for_optimizer(self, metadata: Metadata) -> dict[str, Tensor]:
        """Empty tensors for the state of the optimizer, sharded as its parameters are."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        room = {}
        for key, value in metadata.state_dict_metadata.items():
            if not key.startswith(OPTIMIZER):
                continue
            index = int(key.split(".")[1])
            like = parameters[index] if index < len(parameters) else None
            dtype = value.properties.dtype
            if like is not None and like.shape == value.size:
                room[key] = torch.zeros_like(like, dtype=dtype, requires_grad=False)
            else:
                # A count of steps; or of another optimizer, which is refused later.
                room[key] = torch.zeros(value.size, dtype=dtype)
        return room


def _take_optimizer(rest: dict[str, Any]) -> dict[str, Tensor]:
    """Take the tensors out of an optimizer's state, which is changed in the state dict alone."""
    optimizer = rest["trainer"]["_trainer"]["optimizer"]
    tensors, others = {}, {}
    for index, state in optimizer["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{index}.{key}"] = value
        others[index] = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
    optimizer["state"] = others
    return tensors


def _put_optimizer(rest: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    state = rest["trainer"]["_trainer"]["optimizer"]["state"]
    for name, value in tensors.items():
        _, index, key = name.split(".", 2)
        state[int(index)][key] = value


def _on_main(work: Callable[[], None]) -> None:
    """Let rank 0 do what concerns files; all wait for it, and fail with it."""
    problem = None
    if comm.is_main_process():
        try:
            work()
        except OSError as error:
            problem = error
    problem = comm.all_gather(problem)[0]
    if problem is not None:
        raise problem


def _write_error(error: CheckpointException, folder: Path) -> OSError:
    rank, (first, _) = next(iter(error.failures.items()))
    number = getattr(first, "errno", None) or 0
    message = f"process {rank} could not write its part: {one_line(first)}"
    return OSError(number, message, str(folder))
