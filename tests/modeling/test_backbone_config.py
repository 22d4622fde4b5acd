# SPDX-License-Identifier: Apache-2.0
"""Every key of MODEL.TIMM reaches the backbone that the config names."""

import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from timm.layers import DropPath
from torch import nn

from longtail.config import load_config
from tests.messages import raises_naming

PYRAMID, PLAIN, CLASSIFICATION = (
    "TimmBackbone",
    "TimmPlainBackbone",
    "TimmClassificationBackbone",
)
# With batch normalization; with stochastic depth.
NORMALIZED = {PYRAMID: "test_resnet", PLAIN: "test_vit", CLASSIFICATION: "test_resnet"}
DROPPING = {PYRAMID: "test_convnext", PLAIN: "test_vit", CLASSIFICATION: "test_convnext"}
each_backbone = pytest.mark.parametrize("kind", [PYRAMID, PLAIN, CLASSIFICATION])


def build(kind: str, name: str, *overrides: object) -> nn.Module:
    """A backbone with keys of MODEL.TIMM replaced."""
    overrides = [f"MODEL.TIMM.{x}" if i % 2 == 0 else x for i, x in enumerate(overrides)]
    own = ["MODEL.BACKBONE.NAME", kind, "MODEL.TIMM.NAME", name]
    if kind == PLAIN:
        own += ["MODEL.TIMM.IMAGE_SIZE", 64, "MODEL.TIMM.OUT_BLOCKS", [0, 1, 2, 3]]
    size = ["INPUT.CLASSIFICATION.SIZE", 64]
    return build_backbone(load_config("", [*own, *size, *overrides]), ShapeSpec(channels=3))


def normalizing(backbone: nn.Module) -> list[nn.Module]:
    return [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]


@each_backbone
def test_norm(kind):
    name = NORMALIZED[kind]
    assert normalizing(build(kind, name)) and not normalizing(build(kind, name, "NORM", "FrozenBN"))


@each_backbone
def test_freezing(kind):
    name = NORMALIZED[kind]
    assert all(p.requires_grad for p in build(kind, name).parameters())
    backbone = build(kind, name, "FREEZE_AT", 1)
    frozen = {key.split(".")[1] for key, p in backbone.named_parameters() if not p.requires_grad}
    # A frozen batch normalization has no parameters, and the stem is what begins with it.
    assert frozen == ({"cls_token", "pos_embed", "patch_embed"} if kind == PLAIN else {"conv1"})


@each_backbone
def test_stochastic_depth(kind):
    name = DROPPING[kind]
    rates = {}
    for rate in (0.0, 0.25):
        modules = build(kind, name, "DROP_PATH", rate).modules()
        rates[rate] = [m.drop_prob for m in modules if isinstance(m, DropPath)]
    # Of the last block; of 6 plain ones the fourth is the last that is left.
    last = 0.25 * 3 / 5 if kind == PLAIN else 0.25
    assert max(rates[0.25]) == pytest.approx(last) and not any(rates[0.0])


@pytest.mark.parametrize(("kind", "name"), [(PYRAMID, "test_convnext"), (PLAIN, "test_vit")])
def test_checkpointing(kind, name):
    for value in (False, True):
        modules = build(kind, name, "CHECKPOINTING", value).modules()
        given = {m.grad_checkpointing for m in modules if hasattr(m, "grad_checkpointing")}
        assert (True in given) == value and given


@pytest.mark.parametrize("kind", [PYRAMID, PLAIN])
def test_levels(kind):
    backbone = build(kind, NORMALIZED[kind], "OUT_FEATURES", ["res3", "res5"])
    strides = {level: shape.stride for level, shape in backbone.output_shape().items()}
    assert strides == {"res3": 8, "res5": 32}


def test_output_stride():
    backbone = build(PYRAMID, "test_resnet", "OUTPUT_STRIDE", 8)
    assert [shape.stride for shape in backbone.output_shape().values()] == [4, 8, 8, 8]


@each_backbone
def test_initial_weights(kind):
    with raises_naming(ValueError, "MODEL.TIMM.PRETRAINED", "'imagenet'"):
        build(kind, NORMALIZED[kind], "PRETRAINED", "imagenet")
