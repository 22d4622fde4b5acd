# SPDX-License-Identifier: Apache-2.0
"""The residual networks for images of 32 x 32 pixels of Section 4.2 of "Deep Residual Learning".

timm does not have them. Three levels of n blocks with 16, 32 and 64 channels, shortcuts without
parameters (option A): 6 n + 2 layers.

Shape alphabet:
    N: images
    C: channels
"""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """Create the layers.

        Args:
            in_channels: of the input.
            channels: of the output, at least as many.
            stride: of the first convolution, 1 or 2.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        # Option A: every second pixel, and zeros for half of the new channels on either side.
        missing = y.shape[1] - x.shape[1]
        before = missing // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, before, missing - before)))


@BACKBONE_REGISTRY.register()
class CifarResNet(Backbone):
    """A residual network that makes one vector (N, 64) of an image."""

    @configurable
    def __init__(self, *, depth: int = 32) -> None:
        """Create the network.

        Args:
            depth: layers with weights, the classifier among them: 6 n + 2.

        Raises:
            ValueError: another depth.
        """
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"MODEL.CIFAR_RESNET.DEPTH must be 6 n + 2 with n >= 1, got {depth}")
        self._out_features = ["pooled"]
        self._out_feature_channels = {"pooled": WIDTHS[-1]}
        self._out_feature_strides = {"pooled": None}
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        layers, channels = [], WIDTHS[0]
        for width in WIDTHS:
            for index in range(blocks):
                stride = 2 if index == 0 and width != WIDTHS[0] else 1
                layers.append(BasicBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read MODEL.CIFAR_RESNET."""
        return {"depth": cfg.MODEL.CIFAR_RESNET.DEPTH}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalized images to ``{"pooled": (N, 64)}``."""
        x = F.relu(self.bn1(self.conv1(image)))
        return {"pooled": torch.mean(self.blocks(x), dim=(2, 3))}
