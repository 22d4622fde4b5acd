# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights of timm, torchvision and Swin's authors for our backbones."""

import re

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from longtail.modeling.conversion import from_backbone
from tests.messages import raises_naming


def timm_features(name: str, **options: object) -> dict[str, Tensor]:
    """What TimmBackbone's state dict is made of."""
    state = timm.create_model(name, features_only=True, **options).state_dict()
    return {f"backbone.model.{key}": tensor for key, tensor in state.items()}


SWIN = "swin_tiny_patch4_window7_224"
TINY_SWIN = {"embed_dim": 12, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 3)}


@pytest.mark.parametrize(
    ("name", "options", "left_out"),
    [
        ("resnet18", {}, {"fc"}),
        ("test_efficientnet", {}, {"conv_head", "bn2", "classifier"}),
        ("test_convnext", {}, {"head"}),
        (SWIN, TINY_SWIN, {"norm", "head"}),
        ("resnest14d", {}, {"fc"}),
    ],
)
def test_timm_classifiers_fill_feature_models(name, options, left_out):
    model = timm.create_model(name, num_classes=7, **options)
    own = timm_features(name, **options)
    backbone = from_backbone(model.state_dict(), own)
    assert backbone.style == "timm"
    assert {key.split(".")[0] for key in backbone.left_out} == left_out
    features = timm.create_model(name, features_only=True, **options).double().eval()
    tensors = {k.removeprefix("backbone.model."): v for k, v in backbone.tensors.items()}
    features.load_state_dict(tensors)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        expected = model.double().eval().forward_intermediates(image, intermediates_only=True)[-1]
        actual = features(image)[-1]
    if name == SWIN:
        actual = actual.permute(0, 3, 1, 2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_hrnets_classification_part_stays_behind():
    own = timm_features("hrnet_w18_small", feature_location="")
    with torch.device("meta"):
        state = timm.create_model("hrnet_w18_small").state_dict()
    backbone = from_backbone(state, own)
    parts = {"incre_modules", "downsamp_modules", "final_layer", "classifier"}
    assert {key.split(".")[0] for key in backbone.left_out} == parts
    assert backbone.tensors.keys() == own.keys()


@pytest.fixture(scope="module")
def torchvision_swin() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer(
        [4, 4], 12, [2, 1, 1, 1], [1, 2, 2, 3], [7, 7], num_classes=5
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def test_torchvisions_swin_computes_the_same(torchvision_swin):
    backbone = from_backbone(torchvision_swin.state_dict(), timm_features(SWIN, **TINY_SWIN))
    assert backbone.style == "torchvision"
    assert backbone.left_out == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    model = timm.create_model(SWIN, features_only=True, **TINY_SWIN).double().eval()
    model.load_state_dict(
        {k.removeprefix("backbone.model."): v for k, v in backbone.tensors.items()}
    )
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            model(image)[-1], torchvision_swin.features(image), rtol=1e-10, atol=1e-10
        )


def test_swins_authors_merge_at_the_end_of_a_stage():
    state = timm.create_model(SWIN, **TINY_SWIN).state_dict()
    original = {
        re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", name): tensor
        for name, tensor in state.items()
    }
    original["layers.0.blocks.1.attn_mask"] = torch.zeros(1)
    own = timm_features(SWIN, **TINY_SWIN)
    backbone = from_backbone(original, own)
    assert backbone.style == "Swin's authors"
    torch.testing.assert_close(backbone.tensors, from_backbone(state, own).tensors, rtol=0, atol=0)


def test_position_tables_of_another_image_size():
    """A table that is linear in both offsets stays so inside; the class token's rows stay."""
    name = "backbone.model.blocks.0.attn.relative_position_bias_table"
    own = {name: torch.empty((2 * 5 - 1) ** 2 + 3, 2, device="meta")}
    offsets = torch.arange(-3.0, 4.0)
    table = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1).reshape(-1, 2)
    extra = torch.tensor([[7.0, 8.0], [9.0, 10.0], [11.0, 12.0]])
    source = {name.removeprefix("backbone.model."): torch.cat([table, extra])}
    resized = from_backbone(source, own).tensors[name]
    assert resized.shape == own[name].shape
    assert torch.equal(resized[-3:], extra)
    center = resized[:-3].reshape(9, 9, 2)
    assert center[4, 4].abs().max() < 1e-3
    torch.testing.assert_close(center, -center.flip(0, 1), rtol=0, atol=1e-3)
    assert (center[1:, :, 0] > center[:-1, :, 0]).all()


def test_a_backbone_that_does_not_fit():
    state = torchvision.models.resnet18().state_dict()
    own = timm_features("resnet18")
    lacks, left = (
        "1 missing (conv1.weight)",
        "2 left over (layer1.0.conv9.weight, layer1.0.conv9.bias)",
    )
    with raises_naming(ValueError, lacks, left):
        from_backbone(
            {
                **{k: v for k, v in state.items() if k != "conv1.weight"},
                "layer1.0.conv9.weight": torch.zeros(1),
                "layer1.0.conv9.bias": torch.zeros(1),
            },
            own,
        )
    with raises_naming(ValueError, "timm", "backbone.model", "backbone.stem.weight"):
        from_backbone(state, {"backbone.stem.weight": torch.zeros(1)})
