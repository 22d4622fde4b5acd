# SPDX-License-Identifier: Apache-2.0
"""TimmBackbone in training: freezing, activation checkpointing, stochastic depth."""

import pytest
import torch
from torch import nn

from longtail.modeling import TimmBackbone

SWIN = "swin_tiny_patch4_window7_224"
BLOCKS = ("PaddedWindowBlock", "ConvNeXtBlock")


def is_frozen(module):
    return "FrozenBatchNorm" in type(module).__name__


# What runs until the stem, res2, .. res5 are done, under the names of timm's feature models.
PARTS = {
    "resnet18": ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"],
    "test_efficientnet": ["conv_stem bn1 blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4"],
    "test_convnext": ["stem_", "stages_0", "stages_1", "stages_2", "stages_3"],
    "hrnet_w18_small": [
        "conv1 bn1 conv2 bn2",
        "layer1 transition1",
        "stage2 transition2",
        "stage3 transition3",
        "stage4",
    ],
    SWIN: ["patch_embed", "layers_0", "layers_1", "layers_2", "layers_3"],
}


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
@pytest.mark.parametrize("name", PARTS)
def test_freezing(name, freeze_at):
    """The stem and the first levels have no gradient, and their BatchNorm never changes."""
    backbone = TimmBackbone(name=name, freeze_at=freeze_at).train()
    parts = tuple(part for level in PARTS[name][:freeze_at] for part in level.split())
    for key, tensor in backbone.model.named_parameters():
        assert tensor.requires_grad != key.startswith(parts or ("nothing",)), key
    for key, layer in backbone.model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert not key.startswith(parts or ("nothing",)), key
    for level, layer in backbone.norms.items():
        assert layer.weight.requires_grad == (int(level[-1]) > freeze_at)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))
    moved = {k for k, tensor in backbone.state_dict().items() if not torch.equal(before[k], tensor)}
    assert all("running" in key or "num_batches" in key for key in moved)
    assert not any(key.removeprefix("model.").startswith(parts or ("nothing",)) for key in moved)
    assert bool(moved) == (freeze_at < 5 and "bn1" in str(before.keys()))


def test_freezing_models_that_timm_wraps():
    """Maps of the first come from the model itself, those of the second from hooks."""
    with torch.device("meta"):
        hiera = TimmBackbone(name="sam2_hiera_tiny", freeze_at=2)
        xception = TimmBackbone(name="xception41", freeze_at=1)
    frozen = {key for key, p in hiera.model.named_parameters() if not p.requires_grad}
    first = ("model.pos_embed", "model.patch_embed", "model.blocks.0.")
    assert frozen == {k for k, _ in hiera.model.named_parameters() if k.startswith(first)}
    frozen = {key for key, p in xception.model.named_parameters() if not p.requires_grad}
    # The map of stride 2 is taken inside the first block, before its last convolution.
    assert any(key.startswith("blocks_0.stack.conv2") for key in frozen)
    assert not any(key.startswith(("blocks_0.stack.conv3", "blocks_1")) for key in frozen)
    assert is_frozen(xception.model.get_submodule("stem_0.bn"))


def test_freezing_keeps_the_function():
    torch.manual_seed(0)
    plain = TimmBackbone(name="test_efficientnet").double().eval()
    frozen = TimmBackbone(name="test_efficientnet", freeze_at=3).double().eval()
    frozen.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for level, own in frozen(image).items():
        torch.testing.assert_close(own, plain(image)[level], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", [SWIN, "test_convnext"])
def test_checkpointing_changes_nothing(name):
    """Neither outputs nor gradients, with stochastic depth drawing the same numbers."""
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = TimmBackbone(name=name, drop_path=0.3, checkpointing=checkpointing).double()
        last = [m for m in backbone.modules() if type(m).__name__ in BLOCKS][-1]
        calls = []
        last.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(1)
        maps = backbone.train()(torch.randn(2, 3, 32, 32, dtype=torch.float64))
        sum(m.square().sum() for m in maps.values()).backward()
        results.append((maps, {key: p.grad for key, p in backbone.named_parameters()}))
        assert len(calls) == (2 if checkpointing else 1)
    (maps, grads), (other_maps, other_grads) = results
    for own, other in ((maps, other_maps), (grads, other_grads)):
        for key in own:
            torch.testing.assert_close(own[key], other[key], atol=1e-10, rtol=1e-10)


def test_stochastic_depth_grows_linearly_over_all_blocks():
    """Of Swin-T's 12 blocks in 4 stages; timm's own default is 0.1."""

    def rates(rate):
        model = TimmBackbone(name=SWIN, drop_path=rate).model
        blocks = [m for m in model.modules() if type(m).__name__ in BLOCKS]
        for block in blocks:
            assert type(block.drop_path1) is type(block.drop_path2)
        return [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]

    assert rates(0.0) == [0.0] * 12
    assert rates(0.3) == pytest.approx([0.3 * i / 11 for i in range(12)])


def test_stochastic_depth():
    """Drops a whole image's branch with the rate, and divides what stays by the rest."""
    backbone = TimmBackbone(name=SWIN, drop_path=0.3).train()
    drop = backbone.model.layers_3.blocks[1].drop_path2
    torch.manual_seed(0)
    out = drop(torch.ones(20000, 2, 2, 1))
    values = out[:, 0, 0, 0]
    assert (out == values[:, None, None, None]).all()
    assert set(values.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    # Standard error sqrt(0.3 * 0.7 / 20000) = 0.003.
    assert (values == 0).float().mean().item() == pytest.approx(0.3, abs=0.013)
