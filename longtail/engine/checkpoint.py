# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are written whole and read without running code from them."""

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from longtail.config import deployed_state
from longtail.data.datasets.classes import check_same_order
from longtail.engine.run_folder import (
    SHARDED,
    checkpoints,
    newest_whole_checkpoint,
    wrong_checksum,
)
from longtail.engine.weights_file import is_safetensors, read_safetensors
from longtail.modeling.backbone.lora import LORA_A
from longtail.utils import downloads, model_zoo  # noqa: F401  (what MODEL.WEIGHTS may name)
from longtail.utils.errors import first_line, one_line
from longtail.utils.io import atomic_write

# Where a checkpoint has the names of its classes, in the order of the classifier.
CLASS_NAMES = "class_names"
# Where a checkpoint has the parts of the model that were not trained.
FROZEN = "frozen"

# What detectron2's model zoo files (.pkl) consist of; a pickle may name any other function, and
# naming it is enough to run it.
PICKLE_GLOBALS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer with atomic files, safe loading and errors that say what to do."""

    missing_remedy = "set MODEL.WEIGHTS to a checkpoint, or to '' to start without"
    # Of the classes of the run, in the order of the model: they are written into checkpoints.
    class_names: Sequence[str] = ()
    # Whether weights of other classes are an error. The first stage of a training may start from
    # them, and only says so.
    same_classes = False
    # Whether what is loaded is a run's own checkpoint, to be continued.
    resuming = False

    def save(self, name: str, **extra: Any) -> None:
        """Write ``name.pth`` into the save folder and tag it as the last checkpoint.

        A process that is killed meanwhile leaves the earlier checkpoint and its tag in place.

        Args:
            name: file name without ending.
            extra: further values to save, plain numbers, strings, containers and tensors.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(self._notes(), **extra)
        with atomic_write(os.path.join(self.save_dir, f"{name}.pth"), "wb") as file:
            torch.save(data, file)
        self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str) -> None:
        """Write ``name.pth`` with the weights alone; it is not what ``--resume`` continues from.

        Args:
            name: file name without ending.
        """
        with atomic_write(os.path.join(self.save_dir, f"{name}.pth"), "wb") as file:
            torch.save({"model": self.model.state_dict(), **self._notes()}, file)

    def _notes(self) -> dict[str, list[str]]:
        notes = {CLASS_NAMES: list(self.class_names), FROZEN: list(frozen_parts(self.model))}
        return {name: value for name, value in notes.items() if value}

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint that ``--resume`` continues from."""
        with atomic_write(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether the save folder holds a checkpoint to continue from, damaged or not."""
        found = bool(self.save_dir) and bool(checkpoints(self.save_dir))
        return comm.all_gather(found)[0]

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint in the save folder that is not damaged.

        Raises:
            ValueError: all are damaged.
        """
        found: str | ValueError = ""
        if comm.is_main_process():
            try:
                found = str(newest_whole_checkpoint(self.save_dir) or "")
            except ValueError as error:
                found = error
        found = comm.all_gather(found)[0]
        if isinstance(found, ValueError):
            raise found
        return found

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint as detectron2 does.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds more than tensors and plain values, or is of
                another architecture: it lacks every tensor of the model, or more than half of
                those of its backbone.
        """
        if path.endswith(SHARDED):
            raise ValueError(
                f"{path} is a part of a run with SOLVER.FSDP.ENABLED, which alone continues from "
                "it: set that to True, or MODEL.WEIGHTS to a model_final.pth"
            )
        # With several processes the file may be on the main one's machine alone.
        alone = comm.get_world_size() == 1
        if alone and path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"the weights {path} do not exist: {self.missing_remedy}")
        self._path = path
        try:
            return super().load(path, *args, **kwargs)
        except AssertionError as error:  # of fvcore
            if "not found" not in str(error):
                raise
            raise FileNotFoundError(
                f"the weights {path} do not exist, or their address is of an unknown kind: "
                f"{self.missing_remedy}"
            ) from None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue from the newest checkpoint in the save folder, or load ``path``.

        Raises:
            ValueError: the checkpoint to continue from is of other classes; or as :meth:`load`.
        """
        self.resuming = resume and self.has_checkpoint()
        return super().resume_or_load(path, resume=resume)

    def _compare_classes(self, checkpoint: dict[str, Any]) -> None:
        """Compare the names of classes, where both the checkpoint and the run have some."""
        theirs = checkpoint.get(CLASS_NAMES, ())
        if not theirs or not self.class_names:
            return
        remedy = "give the data sets that it was trained on, or other weights"
        try:
            check_same_order(
                *(theirs, self.class_names),
                *(f"the checkpoint {self._path}", "the training set", remedy),
            )
        except ValueError as error:
            if self.same_classes or self.resuming:
                raise
            logging.getLogger(__name__).warning("%s", error)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        self._compare_classes(checkpoint)
        self._names = list(checkpoint["model"])
        self._check_adapters()
        return super()._load_model(checkpoint)

    def _check_adapters(self) -> None:
        """Refuse weights that are less without their low-rank adapters, which the model lacks."""
        adapters = [name for name in self._names if LORA_A in name]
        if adapters and not any(LORA_A in name for name in self.model.state_dict()):
            raise ValueError(
                f"the weights {self._path} were trained with MODEL.TIMM.LORA ({adapters[0]}), "
                "which this config leaves out: give the config that they were trained with, or "
                "what longtail export has made of them, where adapters are part of the weights"
            )

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        # What has another shape was taken out before loading, so it is missing as well. Counts, not
        # names: a wrapper may have other names inside than in its state dict. And BatchNorm never
        # misses its num_batches_tracked.
        own, missing = (
            [name for name in names if not name.endswith("num_batches_tracked")]
            for names in (self.model.state_dict(), dict.fromkeys(incompatible.missing_keys))
        )
        expected = own[0] if own else ""
        foreign = len(missing) >= len(own)
        # Heads are often new. But a backbone that comes along and hardly fits is another one.
        if any(name.startswith("backbone.") for name in self._names):
            own = [name for name in own if name.startswith("backbone.")]
            missing = [name for name in missing if name.startswith("backbone.")]
            foreign = foreign or 2 * len(missing) > len(own)
            expected = missing[0] if missing else expected
        if own and foreign:
            raise ValueError(
                f"the weights {self._path} are a checkpoint of another architecture: expected such "
                f"as {expected}, in its shape, and found {len(own) - len(missing)} of {len(own)}; "
                f"it has such as {next(iter(self._names), 'none')}. Convert them with "
                "longtail convert-weights, or set MODEL.WEIGHTS to others"
            )
        shapes = {name: pair for name, *pair in incompatible.incorrect_shapes}
        if self.resuming and (shapes or incompatible.missing_keys):
            name = next(iter(shapes), None) or incompatible.missing_keys[0]
            found = "{}, expected {}".format(*shapes[name]) if name in shapes else "missing"
            raise ValueError(
                f"--resume: {self._path} is of another model: {name} is {found} (shape); take the "
                "config back, or start anew in another OUTPUT_DIR"
            )
        super()._log_incompatible_keys(incompatible)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if is_safetensors(filename):
            return read_safetensors(filename)
        is_pickle = filename.endswith(".pkl")
        data = _load_arrays(filename) if is_pickle else load_tensors(filename)
        if not isinstance(data, dict):
            raise ValueError(
                f"the weights {filename} are no checkpoint: expected tensors by name, got "
                f"{type(data).__name__}"
            )
        if not is_pickle:
            data = data if "model" in data else {"model": data}
            return _checked(filename, data)
        if "model" in data and "__author__" in data:
            return _checked(filename, data)
        # Caffe2's files, as in detectron2: plain blobs under names to be matched.
        blobs = data.get("blobs", data)
        weights = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def frozen_parts(model: nn.Module) -> dict[str, int]:
    """The parts of a model that are not trained, such as ``backbone.model.*``, with parameters."""
    frozen: dict[str, int] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            module, tensor = name.split(".")[:2], name.split(".")[2:]
            part = ".".join([*module, "*"] if tensor else module)
            frozen[part] = frozen.get(part, 0) + p.numel()
    return frozen


def _checked(file: str, data: dict[str, Any]) -> dict[str, Any]:
    """Refuse a checkpoint whose model is not tensors by their names."""
    state = data["model"]
    problem = "" if isinstance(state, Mapping) else f"got {type(state).__name__}"
    if not problem:
        wrong = (
            f"got {name!r}: {type(value).__name__}"
            for name, value in state.items()
            if not isinstance(name, str) or not isinstance(value, (torch.Tensor, np.ndarray))
        )
        problem = next(wrong, "")
    if problem:
        raise ValueError(f"the weights {file}: expected tensors by their names, {problem}")
    return data


class CompleteCheckpointer(Checkpointer):
    """A checkpointer for inference, for which missing weights are an error, not a warning."""

    missing_remedy = (
        "set MODEL.WEIGHTS to a trained checkpoint, or first train the config that writes it"
    )
    # Names of the tensors that the file has and the model does not have.
    unused: Sequence[str] = ()

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint that has every tensor of the model; if it has more, the log says so.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no file is named, or it lacks tensors; or as :meth:`Checkpointer.load`.
        """
        if not path:
            raise ValueError("no weights to evaluate: set MODEL.WEIGHTS to a trained checkpoint")
        return super().load(path, *args, **kwargs)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        self.unused = list(incompatible.unexpected_keys)
        # What has another shape was taken out before loading, so it is missing as well.
        missing = incompatible.missing_keys
        if missing:
            shapes = {name: (theirs, own) for name, theirs, own in incompatible.incorrect_shapes}
            example = next(iter(shapes), missing[0])
            detail = " is {}, expected {}".format(*shapes[example]) if shapes else ""
            raise ValueError(
                f"the weights lack {len(missing)} of the model's tensors or have them in another "
                f"shape (such as {example}{detail}): give the config that they were trained with, "
                "or the weights that this config has trained (OUTPUT_DIR/model_final.pth)"
            )
        # A part that only training has is missing on purpose.
        left_out = list(deployed_state(dict.fromkeys(self.unused)))
        if left_out:
            logging.getLogger(__name__).warning(
                "the weights have %d tensors that this model does not use, such as %s: if they "
                "should count, give the config that they were trained with",
                len(left_out),
                left_out[0],
            )


class _ForeignGlobalError(Exception):
    """A pickle names something that is not a part of weights."""


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLE_GLOBALS:
            raise _ForeignGlobalError(f"{module}.{name}")
        return super().find_class(module, name)


def _load_arrays(file: str) -> Any:
    try:
        with open(file, "rb") as stream:
            return _NumpyUnpickler(stream, encoding="latin1").load()
    except _ForeignGlobalError as error:
        raise _more_than_tensors(file, str(error)) from None
    except Exception as error:
        raise _damaged(file, error) from None


def load_tensors(file: str) -> Any:
    """Read what ``torch.save`` wrote, tensors and plain values alone; no code in the file is run.

    Args:
        file: path of the file.

    Raises:
        ValueError: the file is damaged, or holds more than that.
    """
    # torch itself does not compare the checksums in the file.
    if zipfile.is_zipfile(file) and (reason := wrong_checksum(file)):
        raise _damaged(file, ValueError(f"{reason}, or written without checksums"))
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message is a page on how to load the file nevertheless.
        name = re.search(r"GLOBAL ([\w.]+)", one_line(error))
        found = name[1] if name else "or the file is no checkpoint"
        raise _more_than_tensors(file, found) from None
    except Exception as error:
        raise _damaged(file, error) from None


def _more_than_tensors(file: str, name: str) -> ValueError:
    remedy = ""
    if not file.endswith(".pkl"):
        remedy = "; longtail convert-weights INPUT OUTPUT keeps its tensors alone, and runs nothing"
    return ValueError(
        f"the weights {file} hold more than tensors and plain values ({name}): not loaded, the "
        f"file could run code{remedy}"
    )


def _damaged(file: str, error: Exception) -> ValueError:
    """Reading a damaged file may end in nearly any exception: here it becomes one."""
    return ValueError(
        f"the weights {file} are damaged or no checkpoint: fetch or write them again "
        f"({first_line(error)})"
    )
