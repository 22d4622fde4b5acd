# SPDX-License-Identifier: Apache-2.0
"""DINOv2, DINOv3 and CLIP: patches of 14 and 16, timm's values, frozen features, padding."""

import pytest
import timm
import torch
from detectron2.modeling import build_model
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional as F

from longtail.config import load_config
from longtail.modeling.backbone import TimmBackbone, TimmClassificationBackbone, TimmPlainBackbone
from tests.messages import raises_naming
from tests.tiny_vit import CHANNELS, CLIP, DINOV2, DINOV3, shrink

# Tokens with a position besides those of patches.
PREFIX = {DINOV2: 1, CLIP: 1}
PATCH = {DINOV2: 14, DINOV3: 16, CLIP: 16}
LEVELS = ("res2", "res3", "res4", "res5")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


def build(name=DINOV2, seed=0, **options):
    """For images of 4 x 4 patches, in float64, with position tables that are not nearly 0."""
    torch.manual_seed(seed)
    options = {"image_size": 4 * PATCH[name], "out_blocks": (0, 1, 2, 3), **options}
    backbone = TimmPlainBackbone(name=name, **options).double()
    with torch.no_grad():
        for key, tensor in backbone.model.named_parameters():
            # LayerScale is too small to see a block behind it, positions to see these.
            if "gamma" in key or "pos_embed" in key or "token" in key:
                tensor.normal_()
    return backbone


def image_of(*size, count=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *size, dtype=torch.float64, generator=generator)


def bare(backbone, name, grid):
    """timm's own model, of the same weights, for images of this grid of patches alone."""
    own = backbone.model
    size = [n * PATCH[name] for n in grid]
    model = timm.create_model(name, num_classes=0, img_size=size).double().eval()
    state = own.state_dict()
    if "pos_embed" in state:
        # DINOv3 has only rotary ones.
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"], grid, (4, 4), num_prefix_tokens=PREFIX[name]
        )
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", [DINOV2, DINOV3, CLIP])
@pytest.mark.parametrize("size", [None, (75, 101)], ids=str)
def test_features_of_the_bare_model(name, size):
    """At the tables' size, and where positions are resized and the last patches padded by 0."""
    patch = PATCH[name]
    size = size or (4 * patch, 4 * patch)
    rows, columns = (-(-side // patch) for side in size)
    backbone = build(name, neck="none").eval()
    image = image_of(*size, count=2)
    padded = F.pad(image, (0, columns * patch - size[1], 0, rows * patch - size[0]))
    model = bare(backbone, name, (rows, columns))
    with torch.no_grad():
        maps = backbone(image)
        tokens = model.forward_features(padded)[:, model.num_prefix_tokens :]
    expected = tokens.transpose(1, 2).reshape(2, CHANNELS, rows, columns)
    torch.testing.assert_close(maps["res5"], expected, atol=1e-10, rtol=0)
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(rows, columns)] * 4
    assert {shape.stride for shape in backbone.output_shape().values()} == {patch}
    assert backbone.size_divisibility == patch


@pytest.mark.parametrize(("name", "strides"), [(DINOV2, [3.5, 7, 14, 28]), (CLIP, [4, 8, 16, 32])])
def test_pyramid(name, strides):
    """Whole multiples of twice the patch: each level is the image divided by its stride."""
    backbone = build(name).eval()
    side = 2 * PATCH[name]
    assert backbone.size_divisibility == side
    with torch.no_grad():
        maps = backbone(image_of(2 * side, 3 * side))
    for (level, shape), stride in zip(backbone.output_shape().items(), strides, strict=True):
        assert shape.stride == stride and shape.channels == CHANNELS
        assert maps[level].shape[2:] == (2 * side / stride, 3 * side / stride)
    with torch.no_grad():
        # The neck's last level: the largest of 2 x 2 patches.
        last = backbone.model.forward_intermediates(
            image_of(2 * side, 3 * side), indices=[3], intermediates_only=True
        )[0]
    n, c, h, w = last.shape
    expected = last.reshape(n, c, h // 2, 2, w // 2, 2).amax((3, 5))
    torch.testing.assert_close(maps["res5"], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("neck", ["pyramid", "none"])
def test_frozen(neck):
    """No gradient but for the neck, and no stochastic depth, whatever mode is set."""
    backbone = build(freeze_at=5, drop_path=0.5, neck=neck).train()
    trained = {key.split(".")[0] for key, p in backbone.named_parameters() if p.requires_grad}
    assert trained == ({"neck"} if neck == "pyramid" else set())
    assert backbone.training and not any(m.training for m in backbone.model.modules())
    image = image_of(56, 56)
    torch.testing.assert_close(backbone(image)["res4"], backbone.eval()(image)["res4"])
    assert not backbone.train()(image)["res4"].requires_grad


@pytest.mark.parametrize("kind", [TimmBackbone, TimmClassificationBackbone])
def test_frozen_convnext(kind):
    backbone = kind(name="test_convnext", freeze_at=5, drop_path=0.5).train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert backbone.training and not any(m.training for m in backbone.model.modules())


def test_images_of_another_size_are_classified():
    """DINOv2 in timm is for 518 x 518 pixels."""
    torch.manual_seed(0)
    backbone = TimmClassificationBackbone(name=DINOV2, image_size=56, freeze_at=5)
    assert backbone(torch.randn(2, 3, 56, 56))["pooled"].shape == (2, CHANNELS)


def test_the_final_normalization_is_the_last_layer():
    backbone = build(neck="none")
    norm = {backbone.layer_of(key) for key, _ in backbone.named_parameters() if ".norm." in key}
    assert norm == {backbone.num_layers + 1}


def config(*overrides):
    keys = ["MODEL.META_ARCHITECTURE", "LongTailSemanticSegmentor", "MODEL.DEVICE", "cpu"]
    keys += ["MODEL.BACKBONE.NAME", "TimmPlainBackbone", "MODEL.TIMM.NAME", DINOV2]
    keys += ["MODEL.TIMM.IMAGE_SIZE", 56, "MODEL.TIMM.OUT_BLOCKS", [0, 1, 2, 3]]
    keys += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8]
    keys += ["MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT", 0.0, "MODEL.SEM_SEG_HEAD.DROPOUT", 0.0]
    keys += ["MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.WEIGHTS", ""]
    return load_config("", [*keys, *overrides])


LINEAR = ["MODEL.TIMM.NECK", "none", "MODEL.SEM_SEG_HEAD.NAME", "LinearHead"]
LINEAR += ["MODEL.TIMM.OUT_FEATURES", ["res4", "res5"]]
LINEAR += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res4", "res5"]]
UPER = ["MODEL.SEM_SEG_HEAD.NAME", "UPerHead", "MODEL.TIMM.OUT_FEATURES", list(LEVELS)]
UPER += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", list(LEVELS)]


def records(size=(61, 75), seed=2):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator).float()
    labels = torch.randint(0, 3, (2, *size), generator=generator)
    return [{"image": x, "sem_seg": y} for x, y in zip(images, labels, strict=True)]


def bilinear(x, stride):
    """(n, h, w) at the centers of pixels of the image, edges repeated; each axis by a matrix."""
    for axis in (1, 2):
        before = x.shape[axis]
        after = int(before * stride)
        weights = torch.zeros(after, before, dtype=x.dtype)
        for i in range(after):
            position = max((i + 0.5) / stride - 0.5, 0)
            low = min(int(position), before - 1)
            weights[i, low] += 1 - (position - low)
            weights[i, min(low + 1, before - 1)] += position - low
        x = torch.tensordot(weights, x.movedim(axis, 0), 1).movedim(0, axis)
    return x


@pytest.mark.parametrize("head", [LINEAR, UPER], ids=["linear", "uper"])
def test_padding_is_not_in_the_loss(head):
    """61 x 75 pixels are padded, and only they are compared with labels: a mean over 2 x 61 x 75.

    The maps' cells are of 14, or 3.5, pixels; nothing is stretched to the image.
    """
    torch.manual_seed(0)
    model = build_model(config(*head)).train()
    batch = records()
    captured = []
    predictor = model.sem_seg_head.predictor
    handle = predictor.register_forward_hook(lambda m, i, output: captured.append(output))
    (loss,) = model(batch).values()
    handle.remove()
    stride = model.sem_seg_head.common_stride
    assert stride == (14 if head is LINEAR else 3.5)
    pixel_losses = []
    for z, record in zip(captured[0].double(), batch, strict=True):
        logits = bilinear(z, stride)[:, :61, :75]
        log_p = logits - logits.exp().sum(0).log()
        pixel_losses.append(-log_p.gather(0, record["sem_seg"][None])[0])
    expected = torch.stack(pixel_losses).mean()
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", [LINEAR, UPER], ids=["linear", "uper"])
def test_predictions_have_the_images_size(head):
    """As :func:`bilinear` enlarges the maps, cut off, for images that fill no whole patch."""
    torch.manual_seed(0)
    model = build_model(config(*head)).eval()
    batch = records(size=(45, 71))[:1]
    with torch.no_grad():
        (output,) = model(batch)
        ((maps, finish),) = model.logit_maps(batch)
    assert output["sem_seg"].shape == (3, 45, 71)
    expected = bilinear(maps.double(), model.sem_seg_head.common_stride)[:, :45, :71]
    torch.testing.assert_close(output["sem_seg"].double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(finish(maps), output["sem_seg"], atol=1e-5, rtol=0)


def test_linear_head_by_definition():
    """Levels side by side, batch statistics, then the classifier."""
    torch.manual_seed(0)
    head = build_model(config(*LINEAR)).sem_seg_head.double().train()
    assert isinstance(head.norm, nn.BatchNorm2d) and head.norm.num_features == 2 * CHANNELS
    nn.init.normal_(head.norm.weight)
    maps = {level: image_of(4, 5, count=2)[:, :1] * (i + 1) for i, level in enumerate(LEVELS)}
    maps = {level: x.expand(-1, CHANNELS, -1, -1).sin() for level, x in maps.items()}
    x = torch.cat([maps["res4"], maps["res5"]], dim=1)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    y = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
    y = y * head.norm.weight[:, None, None] + head.norm.bias[:, None, None]
    weight = head.predictor.weight[:, :, 0, 0]
    expected = torch.einsum("kc,nchw->nkhw", weight, y) + head.predictor.bias[:, None, None]
    torch.testing.assert_close(head.layers(maps), expected, atol=1e-10, rtol=0)


def test_region_rebalance_on_top():
    """3.5 pixels a cell: the regions are those of the enlarged maps, and their number is known."""
    keys = ["MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead", "MODEL.REGION_REBALANCE.BALANCED"]
    cfg = config(*UPER, *keys, False, "MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "UPerHead")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batch = records(size=(56, 84))
    losses = model(batch)
    assert losses["loss_region"] > 0
    labels = torch.stack([record["sem_seg"] for record in batch])
    # Each class is in each of the two images, also at a quarter of a patch.
    assert model.sem_seg_head.loss_normalizers(labels)["loss_region"] == 6


@pytest.mark.parametrize(
    ("options", "key", "parts"),
    [
        ({"out_blocks": (0, 1, 2, 4)}, "OUT_BLOCKS", [DINOV2, "0 .. 3", "[0, 1, 2, 4]"]),
        ({"neck": "fpn"}, "NECK", ["['pyramid', 'none']", "'fpn'"]),
        ({"freeze_at": 4}, "FREEZE_AT", ["0, 1", "5", "4"]),
        ({"image_size": 64}, "IMAGE_SIZE", ["14", "64"]),
    ],
    ids=str,
)
def test_bad_options(options, key, parts):
    with raises_naming(ValueError, f"MODEL.TIMM.{key}", *parts):
        build(**options)
