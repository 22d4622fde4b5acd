# SPDX-License-Identifier: Apache-2.0
"""ResNeSt with dilations, as in semantic segmentation."""

from timm.models.resnest import ResNestBottleneck
from torch import nn


def adapt_resnest(model: nn.Module) -> None:
    """Take the pool out of shortcuts that do not reduce the map, in place.

    Where dilation has replaced a stride, timm averages 2x2 pixels at stride 1, which moves the
    shortcut by half a pixel; the authors' pool has the stride's size there: one pixel.
    """
    for block in model.modules():
        if isinstance(block, ResNestBottleneck) and block.downsample is not None:
            pool = block.downsample[0]
            if isinstance(pool, nn.AvgPool2d) and pool.stride in (1, (1, 1)):
                block.downsample[0] = nn.Identity()
