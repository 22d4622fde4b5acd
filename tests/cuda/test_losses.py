# SPDX-License-Identifier: Apache-2.0
"""Losses of both methods and all others, on the device and in mixed precision, against float64.

The inputs are rounded to the lower precision on both sides: what is compared is the arithmetic.
"""

import pytest
import torch
from disalign.calibration import AdaptiveCalibration
from region_rebalance.head import RegionRebalanceHead
from torch import nn

from longtail.losses import LDAM, CrossEntropy, Focal, Seesaw
from longtail.losses.cross_entropy import cross_entropy

K, C = 20, 32
COUNTS = (1000 / torch.arange(1, K + 1) ** 2).ceil()
# The type of autocast, and how far a value may be from that of float64, relative to its size.
TYPES = {None: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}

types = pytest.mark.parametrize("dtype", TYPES, ids=str)


class Base(nn.Module):
    """A head whose pixel features are its input."""

    def __init__(self):
        super().__init__()
        self.ignore_value = 255
        self.predictor = nn.Conv2d(C, K, 1)


def drawn(*shape, dtype):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(dtype or torch.float32)


def pixels():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, K, (2, 32, 32), generator=generator)
    labels[:, :9] = 255
    labels[1, 16:] = 3
    return labels


def compared(function, module, inputs, labels, device, dtype):
    """Value and gradients on the device under autocast, and on the CPU in float64."""
    found = []
    for place, number in (("cpu", torch.float64), (device, torch.float32)):
        model, exact = module.to(place, number), number is torch.float64
        x = inputs.to(place, number if exact else inputs.dtype).detach().requires_grad_()
        model.zero_grad()
        enabled = dtype is not None and not exact
        with torch.autocast(torch.device(place).type, dtype=dtype, enabled=enabled):
            loss = function(model, x, labels.to(place))
        loss.backward()
        gradients = [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]
        found.append([loss.detach(), *gradients])
    assert len(found[0]) == len(found[1])
    for expected, actual in zip(*found, strict=True):
        assert actual.device.type == torch.device(device).type and expected.norm() > 0
        error = (actual.cpu().double() - expected).norm() / expected.norm()
        assert error < TYPES[dtype], f"{tuple(expected.shape)}: {error:.1e}"


@types
@pytest.mark.parametrize("downsample", ["nearest", "area"])
def test_region_rebalance(device, dtype, downsample):
    head = RegionRebalanceHead(
        Base(), num_classes=K, class_counts=COUNTS, loss_weight=1.0, label_downsampling=downsample
    )
    compared(
        lambda m, x, y: m.region_loss(x, y),
        head,
        drawn(2, C, 8, 8, dtype=dtype),
        pixels(),
        device,
        dtype,
    )


@types
def test_disalign(device, dtype):
    class Calibrated(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(C, K)
            self.calibration = AdaptiveCalibration(K, C)
            with torch.no_grad():
                self.calibration.alpha.uniform_(0.5, 1.5)

        def forward(self, x):
            return self.calibration(self.classifier(x), x)

    torch.manual_seed(0)
    weights = 1 / COUNTS
    compared(
        lambda m, x, y: cross_entropy(m(x), y, class_weight=weights.to(y.device)),
        Calibrated(),
        drawn(64, C, dtype=dtype),
        torch.arange(64) % K,
        device,
        dtype,
    )


LOSSES = {
    "cross-entropy": lambda: CrossEntropy(K),
    "weighted": lambda: CrossEntropy(K, class_weight=1 / COUNTS),
    "balanced": lambda: CrossEntropy(K, class_prior=COUNTS / COUNTS.mean()),
    "focal": lambda: Focal(K, gamma=2.0),
    "ldam": lambda: LDAM(
        K,
        margins=0.5 / COUNTS.pow(0.25),
        deferred_weights=1 / COUNTS,
        reweight_from=0,
        iteration=lambda: 1,
    ),
    "seesaw": lambda: Seesaw(K, p=0.8, q=2.0),
}


@types
@pytest.mark.parametrize("name", LOSSES)
def test_class_losses(device, dtype, name):
    logits, labels = 3 * drawn(128, K, dtype=dtype), torch.arange(128) % K

    def loss(module, x, y):
        if name == "seesaw":
            module.class_counts.copy_(COUNTS)
        return module(x, y)

    compared(loss, LOSSES[name]().train(), logits, labels, device, dtype)


@pytest.mark.parametrize("name", LOSSES)
def test_class_losses_wait_for_nothing(device, name):
    """What waits for a value cannot be recorded in a CUDA graph."""
    module, labels = LOSSES[name]().to(device).train(), torch.arange(128, device=device) % K
    logits = drawn(128, K, dtype=None).to(device).requires_grad_()
    module(logits, labels).backward()
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        module(logits, labels).backward()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
