# SPDX-License-Identifier: Apache-2.0
"""TimmPlainBackbone: blocks of a vision transformer as levels, BEiT on images of any size."""

import math

import pytest
import timm
import torch
from timm.models import beit as timm_beit
from torch import nn
from torch.nn import functional as F

from longtail.config import load_config
from longtail.modeling.backbone import TimmPlainBackbone
from longtail.modeling.backbone.beit import resize_table
from tests.messages import raises_naming

LEVELS = ("res2", "res3", "res4", "res5")
BEIT = "beit_base_patch16_224"
VIT = "test_vit"
SWIN = "swin_tiny_patch4_window7_224"


@pytest.fixture(autouse=True)
def small_beit(monkeypatch):
    """BEiT-B with 4 blocks of 32 channels and 2 heads: the same code in a hundredth of the time."""
    whole = timm_beit.Beit.__init__

    def small(self, *args, **options):
        options |= {"embed_dim": 32, "depth": 4, "num_heads": 2}
        whole(self, *args, **options)

    monkeypatch.setattr(timm_beit.Beit, "__init__", small)


def build(name=BEIT, image_size=64, out_blocks=(0, 1, 2, 3), seed=0, **options):
    """A backbone in float64 whose tables and batch normalization are not what they start with."""
    torch.manual_seed(seed)
    backbone = TimmPlainBackbone(name=name, image_size=image_size, out_blocks=out_blocks, **options)
    for key, tensor in backbone.state_dict().items():
        if "table" in key or "bias" in key or "running_mean" in key:
            tensor.normal_()
        if "gamma" in key or "running_var" in key:
            tensor.uniform_(0.5, 2)
    return backbone.double()


def image_of(*size, count=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *size, dtype=torch.float64, generator=generator)


def beit_by_definition(model, image, blocks):
    """Outputs of blocks, with each pair of tokens looked up in a loop."""
    rows, columns = (size // 16 for size in image.shape[2:])
    x = F.conv2d(image, model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride=16)
    x = torch.cat([model.cls_token[0], x[0].flatten(1).T])
    tokens, channels = x.shape
    maps = []
    for number, block in enumerate(model.blocks):
        attn, heads = block.attn, block.attn.num_heads
        table = attn.relative_position_bias_table
        index = torch.zeros(tokens, tokens, dtype=torch.long)
        for a in range(tokens):
            for b in range(tokens):
                (i, j), (k, m) = divmod(a - 1, columns), divmod(b - 1, columns)
                index[a, b] = (i - k + rows - 1) * (2 * columns - 1) + j - m + columns - 1
                if a == 0 or b == 0:
                    index[a, b] = len(table) - (1 if a == b else 3 if a == 0 else 2)
        y = F.layer_norm(x, (channels,), block.norm1.weight, block.norm1.bias, 1e-6)
        query, key, value = (y @ attn.qkv.weight.T).chunk(3, dim=1)
        query, value = query + attn.q_bias, value + attn.v_bias
        parts = []
        for h in range(heads):
            part = slice(h * channels // heads, (h + 1) * channels // heads)
            logits = query[:, part] @ key[:, part].T / math.sqrt(channels // heads)
            parts.append((logits + table[index, h]).softmax(1) @ value[:, part])
        y = torch.cat(parts, 1) @ attn.proj.weight.T + attn.proj.bias
        x = x + block.gamma_1 * y
        y = F.layer_norm(x, (channels,), block.norm2.weight, block.norm2.bias, 1e-6)
        y = F.gelu(y @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        x = x + block.gamma_2 * (y @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
        if number in blocks:
            maps.append(x[1:].T.reshape(1, channels, rows, columns))
    return maps


def neck_by_definition(neck, maps):
    """Strides 4, 8, 16 and 32 from maps of stride 16."""

    def double(layer, x):
        """Each pixel becomes 2x2 pixels, each with its own matrix."""
        out = torch.einsum("nchw,cdab->ndhawb", x, layer.weight)
        n, d, h, a, w, b = out.shape
        return out.reshape(n, d, h * a, w * b) + layer.bias[:, None, None]

    first, norm, _, second = neck["res2"]
    x = double(first, maps[0]) - norm.running_mean[:, None, None]
    x = x / (norm.running_var + 1e-5).sqrt()[:, None, None] * norm.weight[:, None, None]
    x = F.gelu(x + norm.bias[:, None, None])
    n, c, h, w = maps[3].shape
    pooled = maps[3].reshape(n, c, h // 2, 2, w // 2, 2).amax((3, 5))
    return [double(second, x), double(neck["res3"], maps[1]), maps[2], pooled]


def test_beit_by_definition():
    backbone = build(out_blocks=(0, 1, 2, 3)).eval()
    image = image_of(64, 64)
    with torch.no_grad():
        own = backbone(image)
        blocks = beit_by_definition(backbone.model, image, (0, 1, 2, 3))
        expected = neck_by_definition(backbone.neck, blocks)
    assert tuple(own) == LEVELS
    for level, other in zip(LEVELS, expected, strict=True):
        torch.testing.assert_close(own[level], other, atol=1e-11, rtol=1e-11)


def test_images_of_another_shape_use_the_resized_tables():
    """32 x 96 pixels are 2 x 6 patches; the tables for 4 x 4 become those for 2 x 6."""
    backbone = build().eval()
    image = image_of(32, 96)
    with torch.no_grad():
        own = backbone(image)["res4"]
        for block in backbone.model.blocks:
            table = block.attn.relative_position_bias_table
            block.attn.relative_position_bias_table = nn.Parameter(
                resize_table(table, (4, 4), (2, 6))
            )
        expected = beit_by_definition(backbone.model, image, (2,))[0]
    torch.testing.assert_close(own, expected, atol=1e-11, rtol=1e-11)


def cubic_weights(before, after):
    """(after, before): the cubic convolution kernel with -0.75, pixel centers, edges repeated."""
    weights = torch.zeros(after, before, dtype=torch.float64)
    for i in range(after):
        position = (i + 0.5) * before / after - 0.5
        for j in range(math.floor(position) - 1, math.floor(position) + 3):
            d = abs(position - j)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[i, min(max(j, 0), before - 1)] += near if d <= 1 else far
    return weights


def test_resized_tables():
    """Bicubic interpolation of the offsets; those of the class token stay."""
    table = torch.randn(7 * 7 + 3, 2, dtype=torch.float64, requires_grad=True)
    assert resize_table(table, (4, 4), (4, 4)) is table
    own = resize_table(table, (4, 4), (2, 6))
    grid = torch.einsum(
        "ai,ijh,bj->abh", cubic_weights(7, 3), table[:-3].reshape(7, 7, 2), cubic_weights(7, 11)
    )
    expected = torch.cat([grid.reshape(33, 2), table[-3:]])
    torch.testing.assert_close(own, expected, atol=1e-12, rtol=0)
    # No offset stays no offset, here along the rows' axis.
    torch.testing.assert_close(cubic_weights(7, 3)[1], torch.eye(7).double()[3])
    (gradient,) = torch.autograd.grad(own.square().sum(), table)
    (other,) = torch.autograd.grad(expected.square().sum(), table)
    torch.testing.assert_close(gradient, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        *((name, (64, 64), (4, 4)) for name in (BEIT, VIT)),
        *((name, (32, 96), (2, 6)) for name in (BEIT, VIT)),
        (BEIT, (97, 130), (6, 8)),
        (VIT, (97, 130), (7, 9)),
    ],
)
def test_images_of_any_size(name, size, grid):
    """97 x 130 pixels: BEiT reads whole patches alone, 6 x 8; ViT's last ones are padded, 7 x 9."""
    backbone = build(name).eval()
    with torch.no_grad():
        maps = backbone(image_of(*size, count=2))
    rows, columns = grid
    sizes = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), grid, (rows // 2, columns // 2)]
    assert [tuple(m.shape[2:]) for m in maps.values()] == sizes
    channels = {BEIT: 32, VIT: 64}[name]
    for level, shape in backbone.output_shape().items():
        assert maps[level].shape[:2] == (2, channels) and shape.channels == channels
    assert [shape.stride for shape in backbone.output_shape().values()] == [4, 8, 16, 32]
    assert backbone.size_divisibility == 32


def test_beit_does_not_read_what_fills_no_patch():
    backbone, image = build().eval(), image_of(79, 64)
    with torch.no_grad():
        expected = backbone(image)
        image[:, :, 64:] += 100
        maps = backbone(image)
    assert all(torch.equal(maps[level], expected[level]) for level in LEVELS)


def test_another_vision_transformer_has_timms_outputs():
    """Without the final normalization, at its own size."""
    backbone = build(VIT, image_size=160).eval()
    whole = timm.create_model(VIT).double().eval()
    state = {k.removeprefix("model."): v for k, v in backbone.state_dict().items()}
    whole.load_state_dict(state, strict=False)
    image = image_of(160, 160)
    with torch.no_grad():
        expected = whole.forward_intermediates(image, indices=[2], intermediates_only=True)[0]
        torch.testing.assert_close(backbone(image)["res4"], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", [BEIT, VIT])
@pytest.mark.parametrize("out_features", [LEVELS, ("res3", "res4")])
def test_every_parameter_is_used(name, out_features):
    backbone = build(name, out_features=out_features).train()
    maps = backbone(image_of(64, 64, count=2))
    assert tuple(maps) == out_features
    sum(m.square().mean() for m in maps.values()).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []
    # Blocks after the last that is returned are left out.
    assert backbone.num_layers == (4 if "res5" in out_features else 3)


@pytest.mark.parametrize("name", [BEIT, VIT])
def test_layers(name):
    """The embedding, blocks in order, and the neck last."""
    backbone = build(name)
    layers = {key: backbone.layer_of(key) for key, _ in backbone.named_parameters()}
    assert {key.split(".")[1] for key, layer in layers.items() if layer == 0} == {
        BEIT: {"cls_token", "patch_embed"},
        VIT: {"cls_token", "pos_embed", "patch_embed"},
    }[name]
    for i in range(4):
        own = {key for key, layer in layers.items() if layer == i + 1}
        assert own and all(key.startswith(f"model.blocks.{i}.") for key in own)
    assert {key for key, layer in layers.items() if layer == 5} == {
        key for key in layers if key.startswith("neck.")
    }
    assert set(layers.values()) == set(range(6))


@pytest.mark.parametrize("name", [BEIT, VIT])
def test_checkpointing_changes_nothing(name):
    """Neither outputs nor gradients, with stochastic depth drawing the same numbers."""
    results = []
    for checkpointing in (False, True):
        backbone = build(name, checkpointing=checkpointing, drop_path=0.3).train()
        calls = []
        backbone.model.blocks[1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(3)
        maps = backbone(image_of(64, 32, count=2))
        sum(m.square().sum() for m in maps.values()).backward()
        results.append((maps, {k: p.grad for k, p in backbone.named_parameters()}))
        assert len(calls) == (2 if checkpointing else 1)
    (maps, grads), (other_maps, other_grads) = results
    for own, other in ((maps, other_maps), (grads, other_grads)):
        for key in own:
            torch.testing.assert_close(own[key], other[key], atol=1e-12, rtol=1e-12)


def test_stochastic_depth_grows_linearly():
    blocks = build(drop_path=0.3).model.blocks
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_freezing():
    backbone = build(VIT, freeze_at=1, norm="FrozenBN").train()
    frozen = {key for key, p in backbone.named_parameters() if not p.requires_grad}
    embedding = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    assert frozen == {f"model.{name}" for name in embedding}
    assert not [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]


def test_timms_weights_are_resized(monkeypatch):
    """Of a classifier for 64 x 64 pixels, loaded into a backbone for 96 x 96."""
    torch.manual_seed(5)
    source = timm.create_model(BEIT, img_size=64)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    monkeypatch.setattr(
        timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: source.state_dict()
    )
    own = TimmPlainBackbone(
        name=BEIT, image_size=96, out_blocks=(0, 1, 2, 3), pretrained="timm"
    ).model
    assert torch.equal(own.blocks[3].mlp.fc2.weight, source.blocks[3].mlp.fc2.weight)
    assert torch.equal(own.cls_token, source.cls_token)
    before = source.blocks[0].attn.relative_position_bias_table
    after = own.blocks[0].attn.relative_position_bias_table
    assert (len(before), len(after)) == (7 * 7 + 3, 11 * 11 + 3)
    # What belongs to the class token, and the middle: no offset.
    torch.testing.assert_close(after[-3:], before[-3:], atol=0, rtol=0)
    torch.testing.assert_close(after[60], before[24], atol=1e-4, rtol=0)


def test_parameters_of_beit_large(monkeypatch):
    """C = 1024, 24 blocks, tables for 40 x 40 patches; the neck has 3 convolutions and a BN."""
    monkeypatch.undo()
    with torch.device("meta"):
        backbone = TimmPlainBackbone(
            name="beit_large_patch16_512", image_size=640, out_blocks=(7, 11, 15, 23)
        )
    c = 1024
    block = 12 * c * c + 2 * c + c + 5 * c + 4 * c + 2 * c + 16 * (79 * 79 + 3)
    neck = 3 * (4 * c * c + c) + 2 * c
    expected = 24 * block + (3 * 16 * 16 * c + c) + c + neck
    assert sum(p.numel() for p in backbone.parameters()) == expected == 318_108_160


def test_from_config():
    overrides = ["MODEL.TIMM.NAME", BEIT, "MODEL.TIMM.IMAGE_SIZE", 96]
    overrides += ["MODEL.TIMM.OUT_BLOCKS", [0, 1, 2, 3], "MODEL.TIMM.DROP_PATH", 0.3]
    backbone = TimmPlainBackbone(load_config("", overrides), None)
    assert backbone.model.patch_embed.grid_size == (6, 6)
    assert backbone.model.blocks[3].drop_path1.drop_prob == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "key", "parts"),
    [
        (
            {"name": "beit_large_patch16_640"},
            "NAME",
            ["'beit_large_patch16_640'", "beit_large_patch16_384"],
        ),
        ({"name": SWIN}, "NAME", [SWIN, "[4, 8, 16, 32]", "MODEL.BACKBONE.NAME TimmBackbone"]),
        ({"name": "resnet18"}, "NAME", ["resnet18"]),
        ({"name": "hiera_tiny_224", "image_size": 224}, "NAME", ["hiera_tiny_224"]),
        ({"image_size": 72}, "IMAGE_SIZE", [BEIT, "16", "72"]),
        ({"image_size": 16}, "IMAGE_SIZE", ["32", "16"]),
        *(
            ({"out_blocks": blocks}, "OUT_BLOCKS", [BEIT, "0 .. 3", str(list(blocks))])
            for blocks in ((0, 1, 2), (0, 1, 2, 4), (0, 2, 1, 3), (0, 1, 1, 3))
        ),
        ({"out_features": ("res1",)}, "OUT_FEATURES", [str(list(LEVELS)), "['res1']"]),
        ({"out_features": ()}, "OUT_FEATURES", [str(list(LEVELS)), "[]"]),
        ({"freeze_at": 2}, "FREEZE_AT", ["0", "1", "TimmPlainBackbone", "2"]),
        ({"norm": "GN"}, "NORM", ["['BN', 'FrozenBN']", "'GN'"]),
        ({"drop_path": 1.0}, "DROP_PATH", ["[0, 1)", "1.0"]),
        ({"pretrained": "package"}, "PRETRAINED", ["tf_efficientnet_lite0", BEIT]),
    ],
    ids=str,
)
def test_bad_options(options, key, parts):
    with raises_naming(ValueError, f"MODEL.TIMM.{key}", *parts):
        TimmPlainBackbone(**{"name": BEIT, "image_size": 64, "out_blocks": (0, 1, 2, 3), **options})


@pytest.mark.parametrize("size", [(31, 64), (64, 16)])
def test_image_too_small(size):
    with raises_naming(ValueError, "32 x 32", f"{size[0]} x {size[1]}"):
        build()(image_of(*size))


def test_a_stride_that_the_patch_does_not_make():
    cfg = load_config("", ["MODEL.TIMM.NAME", VIT, "MODEL.TIMM.OUTPUT_STRIDE", 8])
    with raises_naming(ValueError, "MODEL.TIMM.OUTPUT_STRIDE", "32", "TimmPlainBackbone", "8"):
        TimmPlainBackbone(cfg, None)


@pytest.mark.parametrize(("size", "start"), [("large", 1e-6), ("base", 0.1)])
def test_layer_scale_starts_as_in_beits_own_training(size, start):
    backbone = TimmPlainBackbone(
        name=f"beit_{size}_patch16_224", image_size=64, out_blocks=(0, 1, 2, 3)
    )
    for block in backbone.model.blocks:
        assert torch.equal(block.gamma_1, torch.full_like(block.gamma_1, start))
        assert torch.equal(block.gamma_2, torch.full_like(block.gamma_2, start))


def test_maps_that_have_no_final_normalization():
    """Of models that normalize what they have pooled."""
    with raises_naming(ValueError, "MODEL.TIMM.NECK", "beit_base_patch16_224", "pyramid"):
        TimmPlainBackbone(
            name="beit_base_patch16_224", image_size=64, out_blocks=(0, 1, 2, 3), neck="none"
        )
