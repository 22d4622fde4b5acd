# SPDX-License-Identifier: Apache-2.0
"""Tests that need a GPU; elsewhere they are skipped.

``LONGTAIL_TEST_DEVICE=cpu`` lets them run on a CPU, to see that they do what they should. Which of
them have ever passed on a GPU: none yet.
"""

import os

import pytest
import torch

VARIABLE = "LONGTAIL_TEST_DEVICE"


@pytest.fixture(scope="session")
def device():
    """The name of the device that is tested."""
    name = os.environ.get(VARIABLE, "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return name


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """Convolutions in float32, not in TF32, whose 10 bits would hide what differs."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
