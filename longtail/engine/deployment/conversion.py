# SPDX-License-Identifier: Apache-2.0
"""Weights of other libraries as a model of ours takes them, and ours as mmsegmentation does."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from longtail.config import deployed_config, deployed_state, load_config
from longtail.engine.checkpoint import CLASS_NAMES, load_tensors
from longtail.engine.weights_file import ENDING, is_safetensors, read_safetensors, write_weights
from longtail.modeling.backbone import TimmBackbone
from longtail.modeling.conversion import from_backbone, from_peer, is_segmentor, to_peer
from longtail.modeling.sem_seg.segmentor import PAD_KEY
from longtail.utils.io import atomic_write

# What names of our models begin with: timm's backbones and detectron2's.
OWN = ("backbone.model.", "backbone.bottom_up.", "backbone.res2.")
# timm's model by the number of blocks in layer3.
RESNETS = {6: "resnet50c", 23: "resnet101c"}


class StandIn:
    """A stand-in for whatever a file names besides tensors and plain values: it does nothing."""

    def __init__(self, *_: Any) -> None:
        """Take any arguments and keep none."""
        pass

    def __setstate__(self, state: Any) -> None:
        """Take any state and keep none."""
        pass


def read_state(path: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint without the prefix ``module.``; no code in it is run.

    Args:
        path: a file of safetensors, or of ``torch.save``, the tensors at the top or under
            ``state_dict`` or ``model``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, needs no conversion, or holds no tensors by name.
    """
    if path.endswith(".pkl"):
        raise ValueError(
            f"{path} needs no conversion: detectron2's files are read as they are, set "
            "MODEL.WEIGHTS to it"
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the weights {path} do not exist: name a downloaded checkpoint")
    if is_safetensors(path):
        loaded = read_safetensors(path)
    else:
        stand_ins = [(StandIn, name) for name in foreign_names(path)]
        with torch.serialization.safe_globals(stand_ins):
            loaded = load_tensors(path)
    state = loaded
    if isinstance(loaded, Mapping):
        state = next((loaded[key] for key in ("state_dict", "model") if key in loaded), loaded)
    tensors = {}
    if isinstance(state, Mapping):
        items = ((str(key), value) for key, value in state.items())
        tensors = {k.removeprefix("module."): v for k, v in items if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors by name, neither at the top nor under 'state_dict' or 'model'"
        )
    return tensors


def _notes(path: str) -> dict[str, Any]:
    """The names of classes that a checkpoint of ours carries."""
    if is_safetensors(path):
        return {k: v for k, v in read_safetensors(path).items() if k == CLASS_NAMES}
    with torch.serialization.safe_globals([(StandIn, name) for name in foreign_names(path)]):
        loaded = load_tensors(path)
    return {k: v for k, v in loaded.items() if k == CLASS_NAMES}


def foreign_names(path: str) -> list[str]:
    """What a checkpoint names besides tensors and plain values.

    Checkpoints of mmengine hold its log, and others their options, in classes of their own.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        # An older format, which this cannot look into, or no checkpoint: load_tensors knows.
        return []


def model_state(cfg: CfgNode) -> dict[str, Tensor]:
    """Names and shapes of the tensors of a config's model, as it is for inference; no values."""
    with torch.device("meta"):
        return build_model(deployed_config(cfg)).state_dict()


def resnet_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same for the backbone of a ResNet v1c, by the depth of ``state``.

    Raises:
        ValueError: ``state`` is not a ResNet-50 or -101 v1c.
    """
    names = [name.removeprefix("backbone.") for name in state]
    blocks = len({name.split(".")[1] for name in names if name.startswith("layer3.")})
    if "stem.0.weight" not in names or blocks not in RESNETS:
        raise ValueError(
            f"this is not a ResNet-50 or -101 v1c, its names are {', '.join(names[:3])}, ...: give "
            "the model's config with --config-file"
        )
    with torch.device("meta"):
        backbone = TimmBackbone(name=RESNETS[blocks])
    return {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}


def convert(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], *, without_classifier: bool = False
) -> tuple[dict[str, Tensor], str]:
    """Weights of another library under our names, and what they are in a few words.

    Args:
        state: weights of another library.
        own: our model's tensors, for their names and shapes.
        without_classifier: see :func:`longtail.modeling.conversion.from_peer`.

    Raises:
        ValueError: there is no place for a tensor, or no tensor for a place.
    """
    if is_segmentor(state):
        tensors = from_peer(state, own, without_classifier=without_classifier)
        new = [name for name in own if name not in tensors]
        return tensors, "a whole model" + (f"; not in it: {_listed(new)}" if new else "")
    backbone = from_backbone(state, own)
    left_out = f"; left out: {_listed(backbone.left_out)}" if backbone.left_out else ""
    return backbone.tensors, f"a backbone by the names of {backbone.style}{left_out}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def convert_file(options: argparse.Namespace) -> str:
    """Convert a file; returns what was done, in one line.

    Args:
        options: what ``longtail convert-weights`` parsed.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    state = read_state(options.input)
    cfg = own = None
    notes: dict[str, Any] = {}
    if options.config_file:
        cfg = load_config(
            options.config_file,
            [*options.opts, "MODEL.DEVICE", "meta"],
            imports=getattr(options, "imports", ()),
            register=False,
        )
        own = model_state(cfg)
    try:
        if options.to_mmseg:
            tensors, what = to_peer(deployed_state(state)), "for mmsegmentation"
            if own is not None:
                # The way back finds what the config's model has and the weights do not.
                from_peer(tensors, own)
        elif any(name.startswith(OWN) for name in state):
            foreign = [] if is_safetensors(options.input) else foreign_names(options.input)
            other_format = options.output.endswith(ENDING) != is_safetensors(options.input)
            if not foreign and not other_format:
                raise ValueError(
                    "the names are ours: set MODEL.WEIGHTS to the file, or add --to-mmseg"
                )
            without = f", without {_listed(foreign)}" if foreign else ""
            tensors, what, notes = state, f"as they are{without}", _notes(options.input)
        else:
            own = resnet_state(state) if own is None else own
            tensors, what = convert(state, own, without_classifier=options.without_classifier)
            if cfg is not None and is_segmentor(state) and cfg.MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE:
                what += (
                    f"; mmsegmentation does not pad images, this config does: set {PAD_KEY} False "
                    "to compare with it"
                )
    except ValueError as error:
        raise ValueError(f"{options.input}: {error}") from None
    with atomic_write(options.output, "wb") as file:
        key = "state_dict" if options.to_mmseg else "model"
        write_weights(file, options.output, tensors, notes, key=key)
    return f"{options.output}: {len(tensors)} tensors, {what}"
