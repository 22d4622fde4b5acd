# SPDX-License-Identifier: Apache-2.0
"""State dicts of mmsegmentation's models to ours and back."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from timm.models.swin_transformer import PatchMerging
from torch import Tensor
from torch.nn import functional as F

from longtail.config import deployed_config, deployed_state, load_config
from longtail.modeling.conversion import from_backbone, from_peer, peer_names, to_peer
from tests.messages import raises_naming

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "ADE20K"

# mmsegmentation 1.2.2's models for ADE20K: number of tensors without relative_position_index, and
# the start of the SHA-256 of their sorted lines "name (shape)", taken from the models themselves.
PEERS = {
    "fcn_R_50c": (358, "8f913b8b7bb98a6a"),
    "fcn_R_101c": (664, "b5205dc7e4c7bb0f"),
    "pspnet_R_50c": (370, "29366e5cbf309530"),
    "upernet_R_50c": (412, "fceccd4cec6e555a"),
    "deeplabv3plus_R_101c": (730, "62990c30566d4a92"),
    "deeplabv3plus_S_101": (1027, "089fb173ca756008"),
    "ocrnet_HRNet_W18": (1888, "4148afa0b12700b3"),
    "ocrnet_HRNet_W48": (1888, "f8da8782444878b1"),
    "upernet_swin_T": (259, "eb0617bd08479f8e"),
    "upernet_swin_B_22k": (415, "0437196f02fdd4c3"),
    "upernet_beit_L": (480, "36eacbdda58c2278"),
}
each_model = pytest.mark.parametrize("model", PEERS)
HEAD = "sem_seg_head"
CONTEXT = "decode_head.1.object_context_block"


@pytest.fixture(scope="module")
def model_state():
    """The state dict of a config's model, on the meta device."""
    states = {}

    def state(model: str) -> dict[str, Tensor]:
        if model not in states:
            file = str(CONFIGS / f"{model}_160k.yaml")
            cfg = deployed_config(load_config(file, ["MODEL.DEVICE", "meta"]))
            with torch.device("meta"):
                states[model] = build_model(cfg).state_dict()
        return states[model]

    return state


def small(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of the same names; sizes above 8 become 8, which names do not notice."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(99, [min(size, 8) for size in tensor.shape], generator=generator)
        for name, tensor in state.items()
    }


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Names, types and values."""
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


@each_model
def test_names_and_shapes_are_the_peers(model, model_state):
    tensors = to_peer(model_state(model))
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert (len(lines), digest[:16]) == PEERS[model]


@each_model
def test_a_round_trip_changes_no_bit(model, model_state):
    own = small(model_state(model))
    peer = to_peer(own)
    assert len(peer) == len(own)
    assert_same(from_peer(peer, own), own)
    other = small(peer, seed=1)
    assert_same(to_peer(from_peer(other, own)), other)


# Read off the peer's modules, one of each kind of name.
SAMPLES = {
    "fcn_R_50c": {
        "backbone.model.conv1.3.weight": "backbone.stem.3.weight",
        "backbone.model.bn1.running_var": "backbone.stem.7.running_var",
        "backbone.model.layer2.0.downsample.1.bias": "backbone.layer2.0.downsample.1.bias",
        f"{HEAD}.convs.1.weight": "decode_head.convs.1.conv.weight",
        f"{HEAD}.convs.1.norm.running_mean": "decode_head.convs.1.bn.running_mean",
        f"{HEAD}.join.weight": "decode_head.conv_cat.conv.weight",
        f"{HEAD}.predictor.bias": "decode_head.conv_seg.bias",
        f"{HEAD}.auxiliary.convs.0.norm.weight": "auxiliary_head.convs.0.bn.weight",
        f"{HEAD}.auxiliary.predictor.weight": "auxiliary_head.conv_seg.weight",
    },
    "pspnet_R_50c": {
        f"{HEAD}.pyramid_pooling.pools.3.weight": "decode_head.psp_modules.3.1.conv.weight",
        f"{HEAD}.pyramid_pooling.bottleneck.norm.bias": "decode_head.bottleneck.bn.bias",
    },
    "upernet_R_50c": {
        f"{HEAD}.laterals.2.weight": "decode_head.lateral_convs.2.conv.weight",
        f"{HEAD}.outputs.0.norm.bias": "decode_head.fpn_convs.0.bn.bias",
        f"{HEAD}.fusion.weight": "decode_head.fpn_bottleneck.conv.weight",
    },
    "deeplabv3plus_S_101": {
        "backbone.model.layer1.0.conv2.bn0.bias": "backbone.layer1.0.conv2.bn0.bias",
        f"{HEAD}.image_pool.1.weight": "decode_head.image_pool.1.conv.weight",
        f"{HEAD}.branches.0.norm.bias": "decode_head.aspp_modules.0.bn.bias",
        f"{HEAD}.branches.2.0.weight": "decode_head.aspp_modules.2.depthwise_conv.conv.weight",
        f"{HEAD}.branches.3.1.norm.bias": "decode_head.aspp_modules.3.pointwise_conv.bn.bias",
        f"{HEAD}.bottleneck.weight": "decode_head.bottleneck.conv.weight",
        f"{HEAD}.reduce_low.weight": "decode_head.c1_bottleneck.conv.weight",
        f"{HEAD}.decoder.1.0.weight": "decode_head.sep_bottleneck.1.depthwise_conv.conv.weight",
    },
    "ocrnet_HRNet_W18": {
        "backbone.model.stage3.0.fuse_layers.0.1.0.weight": "backbone."
        "stage3.0.fuse_layers.0.1.0.weight",
        f"{HEAD}.coarse_conv.weight": "decode_head.0.convs.0.conv.weight",
        f"{HEAD}.coarse_predictor.bias": "decode_head.0.conv_seg.bias",
        f"{HEAD}.predictor.bias": "decode_head.1.conv_seg.bias",
        f"{HEAD}.reduce.norm.bias": "decode_head.1.bottleneck.bn.bias",
        f"{HEAD}.query.1.weight": f"{CONTEXT}.query_project.1.conv.weight",
        f"{HEAD}.key.0.weight": f"{CONTEXT}.key_project.0.conv.weight",
        f"{HEAD}.value.weight": f"{CONTEXT}.value_project.conv.weight",
        f"{HEAD}.project.norm.bias": f"{CONTEXT}.out_project.bn.bias",
        f"{HEAD}.fusion.weight": f"{CONTEXT}.bottleneck.conv.weight",
    },
    "upernet_swin_T": {
        "backbone.model.patch_embed.proj.bias": "backbone.patch_embed.projection.bias",
        "backbone.model.layers_0.blocks.1.attn.relative_position_bias_table": "backbone."
        "stages.0.blocks.1.attn.w_msa.relative_position_bias_table",
        "backbone.model.layers_2.blocks.5.mlp.fc1.bias": "backbone."
        "stages.2.blocks.5.ffn.layers.0.0.bias",
        "backbone.model.layers_1.blocks.0.mlp.fc2.bias": "backbone."
        "stages.1.blocks.0.ffn.layers.1.bias",
        "backbone.model.layers_3.downsample.norm.bias": "backbone.stages.2.downsample.norm.bias",
        "backbone.norms.res4.weight": "backbone.norm2.weight",
    },
    "upernet_beit_L": {
        "backbone.model.cls_token": "backbone.cls_token",
        "backbone.model.blocks.23.norm2.bias": "backbone.layers.23.ln2.bias",
        "backbone.model.blocks.7.attn.q_bias": "backbone.layers.7.attn.q_bias",
        "backbone.model.blocks.0.mlp.fc2.bias": "backbone.layers.0.ffn.layers.1.bias",
        "backbone.model.blocks.0.gamma_1": "backbone.layers.0.gamma_1",
        "backbone.neck.res2.3.bias": "neck.upsample_4x.3.bias",
        "backbone.neck.res3.weight": "neck.upsample_2x.0.weight",
    },
}


@pytest.mark.parametrize("model", SAMPLES)
def test_each_kind_of_name(model, model_state):
    names = peer_names(model_state(model))
    assert {name: names[name] for name in SAMPLES[model]} == SAMPLES[model]


def test_patch_merging_computes_the_same():
    """The peer: nn.Unfold, then norm and projection; channels in the order of nn.Unfold."""
    C = 3
    torch.manual_seed(0)
    peer = "backbone.stages.0.downsample"
    peer_state = {
        f"{peer}.norm.weight": torch.randn(4 * C, dtype=torch.float64),
        f"{peer}.norm.bias": torch.randn(4 * C, dtype=torch.float64),
        f"{peer}.reduction.weight": torch.randn(2 * C, 4 * C, dtype=torch.float64),
    }
    ours = PatchMerging(C).double()
    prefix = "backbone.model.layers_1.downsample."
    own = {prefix + name: tensor for name, tensor in ours.state_dict().items()}
    converted = from_peer(peer_state, own)
    ours.load_state_dict({k.removeprefix(prefix): v for k, v in converted.items()})

    image = torch.randn(2, C, 4, 6, dtype=torch.float64)
    unfolded = F.unfold(image, kernel_size=2, stride=2).transpose(1, 2)
    weight, bias, projection = peer_state.values()
    expected = F.layer_norm(unfolded, (4 * C,), weight, bias) @ projection.T
    actual = ours(image.permute(0, 2, 3, 1)).flatten(1, 2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert_same(to_peer(converted), peer_state)


def test_step_counters_and_derived_tables(model_state):
    own = small(model_state("upernet_swin_T"))
    peer = to_peer(own)
    table = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    old = {name: t for name, t in peer.items() if not name.endswith("num_batches_tracked")}
    converted = from_peer({**old, table: torch.zeros(49, 49)}, own)
    assert converted.keys() == own.keys()
    counters = [name for name in own if name.endswith("num_batches_tracked")]
    assert counters
    assert all(converted[name].item() == 0 for name in counters)
    # Frozen layers have no counters.
    frozen = {name: tensor for name, tensor in own.items() if name not in counters}
    assert_same(from_peer(peer, frozen), frozen)


def test_the_region_branch_stays_behind(model_state):
    own = small(model_state("fcn_R_50c"))
    trained = {**own, f"{HEAD}.region_classifier.weight": torch.zeros(150, 150)}
    assert_same(to_peer(deployed_state(trained)), to_peer(own))
    with pytest.raises(ValueError, match=r"no place for 1 of the tensors .sem_seg_head.region"):
        to_peer(trained)


def test_classifiers_of_another_class_count(model_state):
    own = small(model_state("ocrnet_HRNet_W18"))
    classifiers = [name for name in own if "predictor" in name]
    assert len(classifiers) == 4
    peer = to_peer(own)
    other = {**own, **{name: torch.zeros(5, *own[name].shape[1:]) for name in classifiers}}
    with raises_naming(ValueError, "8", "5", "--without-classifier"):
        from_peer(peer, other)
    converted = from_peer(peer, other, without_classifier=True)
    assert_same(converted, {name: own[name] for name in own if name not in classifiers})
    # Where the numbers agree, the flag leaves nothing out.
    assert_same(from_peer(peer, own, without_classifier=True), own)


def message(peer: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    with pytest.raises(ValueError) as caught:
        from_peer(peer, own)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_whatever_finds_no_place_is_named(model_state):
    own = small(model_state("fcn_R_50c"))
    peer = to_peer(own)
    del peer["backbone.stem.4.running_var"]
    peer["decode_head.conv_cat.conv.weight"] = torch.zeros(3, 4)
    peer["decode_head.conv_dog.conv.weight"] = torch.zeros(1)
    text = message(peer, own)
    assert "1 missing (backbone.stem.4.running_var)" in text
    assert "decode_head.conv_cat.conv.weight is (3, 4), expected (8, 8, 3, 3)" in text
    assert "1 left over (decode_head.conv_dog.conv.weight)" in text


@pytest.mark.parametrize(
    ("given", "expected", "words"),
    [
        ("pspnet_R_50c", "fcn_R_50c", ("PSPNet on ResNet", "FCN on ResNet", "psp_modules.0.1")),
        ("fcn_R_101c", "fcn_R_50c", ("0 missing", "left over (backbone.layer3.6.")),
        ("ocrnet_HRNet_W18", "upernet_swin_T", ("OCRNet on HRNet", "UPerNet on Swin")),
        ("upernet_beit_L", "deeplabv3plus_S_101", ("UPerNet on BEiT", "DeepLabV3+ on ResNeSt")),
    ],
)
def test_another_architecture(given, expected, words, model_state):
    text = message(to_peer(small(model_state(given))), small(model_state(expected)))
    assert all(word in text for word in words)
    assert len(text) < 600


def test_models_that_the_peer_does_not_have(model_state):
    own = small(model_state("fcn_R_50c"))
    with raises_naming(ValueError, "mmsegmentation", "1", f"{HEAD}.calibration.weight"):
        to_peer({**own, f"{HEAD}.calibration.weight": torch.zeros(1)})
    lite = {"backbone.model.conv_stem.weight": torch.zeros(1)}
    with raises_naming(ValueError, "mmsegmentation", "HRNet", "BEiT", *lite):
        to_peer(lite)


def test_a_backbone_of_the_peer_with_and_without_prefix(model_state):
    own = small(model_state("upernet_swin_T"))
    mine = {name: t for name, t in own.items() if name.startswith("backbone.")}
    peer = {k: t for k, t in to_peer(own).items() if k.startswith("backbone.")}
    for prefix in ("", "backbone."):
        state = {prefix + k.removeprefix("backbone."): t for k, t in peer.items()}
        backbone = from_backbone({**state, "head.fc.weight": torch.zeros(3)}, own)
        assert (backbone.style, backbone.left_out) == ("mmsegmentation", ["head.fc.weight"])
        assert_same(backbone.tensors, mine)
    # ImageNet models have no norms on outputs: ours start new.
    plain = {k: t for k, t in peer.items() if not re.match(r"backbone\.norm\d", k)}
    expected = {k: t for k, t in mine.items() if ".norms." not in k}
    assert_same(from_backbone(plain, own).tensors, expected)
