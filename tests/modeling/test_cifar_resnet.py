# SPDX-License-Identifier: Apache-2.0
"""The residual network of small images against torchvision's blocks, and its number of weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

from longtail.modeling.backbone.cifar_resnet import CifarResNet
from tests.messages import raises_naming


class OptionA(nn.Module):
    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))


def reference(blocks):
    """Of torchvision's parts: its modules in the order in which they are applied."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for width in (16, 32, 64):
        for index in range(blocks):
            wider = index == 0 and width > 16
            shortcut = OptionA() if wider else None
            layers.append(BasicBlock(channels, width, 2 if wider else 1, shortcut))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("depth", [8, 20])
def test_equals_torchvisions_blocks(depth):
    torch.manual_seed(0)
    ours, theirs = CifarResNet(depth=depth).double(), reference((depth - 2) // 6).double()
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        other.copy_(mine)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    pooled, expected = ours(images)["pooled"], theirs(images)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)
    assert pooled.shape == (3, ours.output_shape()["pooled"].channels)
    gradients = [
        torch.autograd.grad(output.square().sum(), model.parameters())
        for output, model in ((pooled, ours), (expected, theirs))
    ]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_the_published_size():
    """464,154 weights with the classifier of CIFAR-10's 10 classes: "0.46M" in the paper."""
    number = sum(p.numel() for p in CifarResNet(depth=32).parameters())
    assert number + 64 * 10 + 10 == 464_154


@pytest.mark.parametrize("depth", [2, 31, 51])
def test_other_depths_are_refused(depth):
    with raises_naming(ValueError, "MODEL.CIFAR_RESNET.DEPTH", str(depth)):
        CifarResNet(depth=depth)
