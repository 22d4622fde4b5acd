# SPDX-License-Identifier: Apache-2.0
"""HRNet and ResNeSt where timm differs from semantic segmentation."""

import pytest
import torch
from timm.models.hrnet import HighResolutionModule
from torch import nn
from torch.nn import functional as F

from longtail.modeling import TimmBackbone

SMALL = "hrnet_w18_small"


def parameters(name, **options):
    with torch.device("meta"):
        backbone = TimmBackbone(name=name, **options)
    return round(sum(p.numel() for p in backbone.parameters()) / 1e6, 3), backbone


@pytest.mark.parametrize(
    ("name", "count", "width"), [("hrnet_w18", 9.562, 18), ("hrnet_w48", 65.325, 48)]
)
def test_branches_of_hrnet(name, count, width):
    own, backbone = parameters(name)
    assert own == count
    levels = [(shape.channels, shape.stride) for shape in backbone.output_shape().values()]
    assert levels == [(width, 4), (2 * width, 8), (4 * width, 16), (8 * width, 32)]


def double_bilinearly(x, times):
    """(C, H, W) to f = 2^times the size; its pixel i lies at (i + 0.5) / f - 0.5."""
    factor = 2**times
    for axis in (1, 2):
        size = x.shape[axis]
        position = ((torch.arange(size * factor) + 0.5) / factor - 0.5).clamp(0, size - 1)
        below = position.long()
        above = (below + 1).clamp(max=size - 1)
        share = (position - below).to(x)
        share = share[:, None] if axis == 1 else share
        x = x.index_select(axis, below) * (1 - share) + x.index_select(axis, above) * share
    return x


def test_branches_are_fused_bilinearly():
    torch.manual_seed(0)
    backbone = TimmBackbone(name=SMALL).double().eval()
    fusing = backbone.model.stage4[-1]
    assert isinstance(fusing, HighResolutionModule)
    branches = [
        torch.randn(1, width, 16 >> i, 24 >> i, dtype=torch.float64)
        for i, width in enumerate((16, 32, 64, 128))
    ]
    # Only the fusion: branches as they come.
    fusing.branches = nn.ModuleList(nn.Identity() for _ in branches)
    with torch.no_grad():
        own = fusing(list(branches))[0]
        total = branches[0][0]
        for times, branch in enumerate(branches[1:], start=1):
            conv, norm, _ = fusing.fuse_layers[0][times]
            total = total + double_bilinearly(norm(conv(branch))[0], times)
    torch.testing.assert_close(own[0], total.relu(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "out_features", [("res2", "res3", "res4", "res5"), ("res3",), ("res1", "res5")]
)
def test_every_parameter_is_used(out_features):
    """Whatever is returned; the other levels' part of the last fusion is left out."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name=SMALL, out_features=out_features)
    # The branches exchange maps, whose sizes only agree in multiples of 32.
    assert backbone.size_divisibility == 32
    image = torch.randn(2, 3, 64, 96)
    maps = backbone(image)
    assert list(maps) == list(out_features)
    sum(m.square().mean() for m in maps.values()).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []
    whole = TimmBackbone(name=SMALL)
    whole.load_state_dict(backbone.state_dict(), strict=False)
    backbone.eval(), whole.eval()
    with torch.no_grad():
        expected = whole(image)
        for level in set(out_features) - {"res1"}:
            torch.testing.assert_close(backbone(image)[level], expected[level])


@pytest.mark.parametrize("output_stride", [8, 32])
def test_number_of_parameters_of_resnest(output_stride):
    assert parameters("resnest101e", output_stride=output_stride)[0] == 46.226


def test_resnest_with_dilations():
    """Strides 1, 2, 1, 1, dilations 1, 1, 2, 4, first blocks at 1, 1, 1, 2, as in ResNet."""
    model = TimmBackbone(name="resnest14d", output_stride=8).model
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    first = [stage[0] for stage in stages]
    assert [block.conv2.conv.dilation[0] for block in first] == [1, 1, 1, 2]
    # The stride is that of an average pool behind the 3x3.
    assert [block.conv2.conv.stride[0] for block in first] == [1, 1, 1, 1]
    assert [block.avd_last.stride if block.avd_last else 1 for block in first] == [1, 2, 1, 1]
    model = parameters("resnest101e", output_stride=8)[1].model
    rest = [
        {b.conv2.conv.dilation[0] for b in list(getattr(model, f"layer{i}"))[1:]}
        for i in (1, 2, 3, 4)
    ]
    assert rest == [{1}, {1}, {2}, {4}]


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(8, (1, 2, 1, 1)), (16, (1, 2, 2, 1)), (32, (1, 2, 2, 2))]
)
def test_shortcuts_of_resnest(output_stride, strides):
    """The mean over as many pixels as the stride has, of what is in the map, then a 1x1 and BN."""
    torch.manual_seed(0)
    model = TimmBackbone(name="resnest14d", output_stride=output_stride).model.double().eval()
    for stage, stride in zip((1, 2, 3, 4), strides, strict=True):
        shortcut = getattr(model, f"layer{stage}")[0].downsample
        conv, norm = shortcut[1], shortcut[2]
        x = torch.randn(1, conv.in_channels, 5, 7, dtype=torch.float64)
        pooled = torch.stack(
            [
                torch.stack(
                    [
                        x[:, :, i : i + stride, j : j + stride].mean((2, 3))
                        for j in range(0, 7, stride)
                    ],
                    -1,
                )
                for i in range(0, 5, stride)
            ],
            -2,
        )
        with torch.no_grad():
            expected = norm(F.conv2d(pooled, conv.weight))
            torch.testing.assert_close(shortcut(x), expected, atol=1e-12, rtol=0)
