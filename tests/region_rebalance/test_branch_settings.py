# SPDX-License-Identifier: Apache-2.0
"""The settings of the branch: the paper's without being told, and each key where it belongs."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from region_rebalance.head import RegionRebalanceHead
from torch import nn

from longtail.config import load_config
from longtail.modeling import FCNHead

K = 4
COUNTS = torch.tensor([50, 20, 5, 1])
SHAPE = {"res5": ShapeSpec(channels=8, stride=4)}


def base_head(channels: int = 6, **options) -> FCNHead:
    return FCNHead(
        input_shape=SHAPE,
        in_feature="res5",
        channels=channels,
        norm="BN",
        num_classes=K,
        # It is not computed here.
        pixel_loss=nn.Identity(),
        **options,
    )


def test_defaults():
    """Table 5 of the paper: lambda 0.3; Eq. 7 counts regions an image."""
    assert dict(load_config("").MODEL.REGION_REBALANCE) == {
        "BASE_HEAD_NAME": "SeparableDeepLabV3PlusHead",
        "PIXEL_CLASSIFIER": "predictor",
        "LOSS_WEIGHT": 0.3,
        "BALANCED": True,
        "SCOPE": "image",
        "LABEL_DOWNSAMPLING": "nearest",
        "HIDDEN_CHANNELS": 0,
    }
    head = RegionRebalanceHead(base_head(), num_classes=K, class_counts=COUNTS)
    assert (head.loss_weight, head.balanced, head.scope) == (0.3, True, "image")
    assert (head.label_downsampling, head.pixel_classifier) == ("nearest", "predictor")


@pytest.mark.parametrize("balanced", [True, False])
def test_every_key_arrives(monkeypatch, balanced):
    class Stats:
        image_count = COUNTS.numpy()

    monkeypatch.setattr("region_rebalance.head.get_class_stats", lambda names: Stats)
    cfg = load_config("")
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NUM_CLASSES, head.IN_FEATURES, head.CONVS_DIM, head.NORM = K, ["res5"], 6, "BN"
    head.AUXILIARY.LOSS_WEIGHT = 0.0
    node = cfg.MODEL.REGION_REBALANCE
    node.BASE_HEAD_NAME, node.PIXEL_CLASSIFIER, node.LOSS_WEIGHT = "FCNHead", "join", 0.7
    node.BALANCED, node.SCOPE, node.LABEL_DOWNSAMPLING = balanced, "batch", "area"
    node.HIDDEN_CHANNELS = 5
    built = SEM_SEG_HEADS_REGISTRY.get("RegionRebalanceHead")(cfg, SHAPE)
    assert type(built.base_head) is FCNHead
    assert (built.pixel_classifier, built.loss_weight, built.balanced) == ("join", 0.7, balanced)
    assert (built.scope, built.label_downsampling) == ("batch", "area")
    # The input of join has 8 + 6 channels.
    assert [tuple(p.shape) for p in built.region_classifier.parameters() if p.ndim == 2] == [
        (5, 14),
        (K, 5),
    ]
    # Component I alone reads no statistics.
    assert built.class_counts.tolist() == ([50, 20, 5, 1] if balanced else [1, 1, 1, 1])


def test_initial_weights():
    """N(0, 0.01) as every classifier; kaiming-normal fan-out before a ReLU: 5 standard errors."""
    torch.manual_seed(0)
    for hidden in (0, 160):
        head = RegionRebalanceHead(
            base_head(channels=200), num_classes=K, class_counts=COUNTS, hidden_channels=hidden
        )
        layers = [m for m in head.region_classifier.modules() if isinstance(m, nn.Linear)]
        assert len(layers) == (2 if hidden else 1)
        for layer in layers:
            std = (2 / hidden) ** 0.5 if layer.out_features == hidden else 0.01
            error = 5 / (2 * layer.weight.numel()) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=error)
            assert not layer.bias.any()


def test_cells_at_the_border_count_as_they_are_pooled():
    """30 x 27 pixels at stride 4 are 8 x 7 cells, which read the columns 0, 3, 7, .. 23."""
    head = RegionRebalanceHead(base_head(), num_classes=K, class_counts=COUNTS)
    targets = torch.zeros(1, 30, 27, dtype=torch.long)
    targets[:, :, 23:] = 1
    assert head.loss_normalizers(targets)["loss_region"].item() == 2
    targets[:, :, 23] = 0
    assert head.loss_normalizers(targets)["loss_region"].item() == 1


def test_the_base_heads_ignored_label_is_the_branchs():
    head = RegionRebalanceHead(base_head(ignore_value=200), num_classes=K, class_counts=COUNTS)
    targets = torch.full((2, 32, 32), 200)
    targets[0, :16] = 3
    assert head.loss_normalizers(targets)["loss_region"].item() == 1
    x = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(head.region_classifier.weight)
    region = x[0, :, :4].mean(dim=(1, 2))
    logits = head.region_classifier(region) + COUNTS.log()
    expected = -0.3 * logits.log_softmax(dim=0)[3]
    torch.testing.assert_close(head.region_loss(x, targets), expected)


def test_mixed_precision_pools_in_float32():
    """What enters the region classifier is a mean of 8-bit numbers, not an 8-bit mean."""
    head = RegionRebalanceHead(base_head(), num_classes=K, class_counts=COUNTS)
    entered = []
    head.region_classifier.register_forward_pre_hook(lambda _, x: entered.append(x[0]))
    generator = torch.Generator().manual_seed(0)
    x = (1 + torch.rand(2, 6, 64, 64, generator=generator)).bfloat16()
    targets = torch.zeros(2, 64, 64, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.region_loss(x, targets)
    expected = x.double().mean(dim=(2, 3)).float()
    # The 4096 numbers near 1.5 have a mean that bfloat16, in steps of 1 / 128, does not.
    assert (expected - expected.bfloat16()).abs().max() > 1e-3
    torch.testing.assert_close(entered[0], expected, rtol=0, atol=1e-5)
    assert entered[0].dtype == loss.dtype == torch.float32
