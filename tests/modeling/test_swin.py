# SPDX-License-Identifier: Apache-2.0
"""Swin against its definition, written with loops over pixels and windows."""

import math

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch.nn import functional as F

from longtail.modeling import TimmBackbone
from longtail.modeling.backbone.swin import SWIN_OPTIONS, PaddedWindowBlock, adapt_swin, shift_mask

SWIN = "swin_tiny_patch4_window7_224"


def tiny_swin(window=3, seed=0):
    """Two stages of 8 and 16 channels, two blocks each, with adapted blocks, in float64."""
    torch.manual_seed(seed)
    model = SwinTransformer(
        img_size=32,
        embed_dim=8,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=window,
        num_classes=0,
        strict_img_size=False,
        **SWIN_OPTIONS,
    )
    for name, parameter in model.named_parameters():
        if "table" in name:
            torch.nn.init.normal_(parameter)
    adapt_swin(model)
    return model.double().eval()


def attention_by_definition(block, x):
    """Pixel by pixel: pad, shift, attend to the pixels of the window that were neighbors, undo."""
    _, height, width, channels = x.shape
    window, shift = block.window_size[0], block.shift_size[0]
    rows, columns = math.ceil(height / window) * window, math.ceil(width / window) * window
    padded = torch.zeros(rows, columns, channels, dtype=x.dtype)
    padded[:height, :width] = x[0]
    attn = block.attn
    heads, size = attn.num_heads, channels // attn.num_heads
    query, key, value = attn.qkv(padded).split(channels, dim=-1)
    table = attn.relative_position_bias_table
    out = torch.zeros_like(padded)
    # Windows of the shifted map, as lists of the padded map's pixels.
    windows = {}
    for i in range(rows):
        for j in range(columns):
            windows.setdefault((i // window, j // window), []).append(
                ((i + shift) % rows, (j + shift) % columns, i % window, j % window)
            )
    for pixels in windows.values():
        for i, j, a, b in pixels:
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                logits = []
                for k, m, c, d in pixels:
                    logit = query[i, j, part] @ key[k, m, part] / math.sqrt(size)
                    logit = (
                        logit
                        + table[(a - c + window - 1) * (2 * window - 1) + b - d + window - 1, h]
                    )
                    # Pixels which the shift brought from the other end are no neighbors.
                    wrapped = (i < shift) != (k < shift) or (j < shift) != (m < shift)
                    logits.append(logit - 100 if shift and wrapped else logit)
                weights = torch.stack(logits).softmax(0)
                values = torch.stack([value[k, m, part] for k, m, _, _ in pixels])
                out[i, j, part] = weights @ values
    return attn.proj(out[:height, :width])[None]


# Whole windows, windows to be padded on each axis, a single window, and less than one.
@pytest.mark.parametrize("size", [(6, 6), (4, 5), (7, 6), (3, 3), (1, 2)])
@pytest.mark.parametrize("shifted", [0, 1])
def test_attention(size, shifted):
    block = tiny_swin().layers[0].blocks[shifted]
    assert block.shift_size == (shifted, shifted)
    x = torch.randn(1, *size, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own, expected = block._attn(x), attention_by_definition(block, x)
    torch.testing.assert_close(own, expected, atol=1e-13, rtol=0)


def test_the_shift_is_kept_where_the_map_is_one_window():
    model = TimmBackbone(name=SWIN).model
    last = model.layers_3.blocks
    assert isinstance(last[1], PaddedWindowBlock)
    assert [block.shift_size for block in last] == [(0, 0), (3, 3)]
    # On maps of half a window, too, as in test_attention.
    assert {block.window_size for block in last} == {(7, 7)}


def test_mask_by_counting():
    """Of 12 x 8 pixels in windows of 4, shifted by 1, only the last windows mix both ends."""
    mask = shift_mask((3, 2), (4, 4), (1, 1), torch.zeros(()))
    assert mask.shape == (6, 16, 16)
    apart = (mask != 0).sum((1, 2)).reshape(3, 2).tolist()
    # Bands of 3 and 1 along one axis: 2 * 12 * 4 pairs. Along both, groups of 9, 3, 3 and 1.
    both = 16**2 - (9**2 + 3**2 + 3**2 + 1)
    assert apart == [[0, 96], [0, 96], [96, both]]
    assert set(mask.unique().tolist()) == {0.0, -100.0}
    # In float16 and bfloat16 as well.
    assert shift_mask((1, 1), (4, 4), (1, 1), torch.zeros((), dtype=torch.float16)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "count"), [(SWIN, 27.521), ("swin_base_patch4_window12_384", 86.880)]
)
def test_number_of_parameters(name, count):
    with torch.device("meta"):
        backbone = TimmBackbone(name=name)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 3) == count


def test_outputs_are_normalized():
    """Each pixel of each level, with the layer's scale and shift; C is 96 .. 768."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name=SWIN).double().eval()
    assert [tuple(norm.weight.shape) for norm in backbone.norms.values()] == [
        (96,),
        (192,),
        (384,),
        (768,),
    ]
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for norm in backbone.norms.values():
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
        raw = backbone.model(image)
        for (level, own), x in zip(backbone(image).items(), raw, strict=True):
            mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
            norm = backbone.norms[level]
            expected = (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
            torch.testing.assert_close(own, expected.permute(0, 3, 1, 2), atol=1e-10, rtol=0)


def test_images_of_any_size():
    """Padded to whole patches: 97 x 130 pixels are 25 x 33 of them, halved and rounded up."""
    backbone = TimmBackbone(name=SWIN).eval()
    image = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        maps, padded = backbone(image), backbone(F.pad(image, (0, 2, 0, 3)))
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(25, 33), (13, 17), (7, 9), (4, 5)]
    for level, own in maps.items():
        torch.testing.assert_close(own, padded[level], atol=0, rtol=0)


def test_every_parameter_is_used():
    backbone = TimmBackbone(name=SWIN, out_features=("res2", "res4")).train()
    sum(m.square().mean() for m in backbone(torch.randn(1, 3, 32, 32)).values()).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []
    assert list(backbone.norms) == ["res2", "res4"]


def test_mixed_precision():
    """bfloat16 has 8 bits: one part in 256 a rounding, a few of them."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name=SWIN).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        exact = backbone(image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = backbone(image)
    for level, own in rounded.items():
        difference = (own.float() - exact[level]).norm() / exact[level].norm()
        assert difference < 0.05
