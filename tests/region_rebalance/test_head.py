# SPDX-License-Identifier: Apache-2.0
"""The region branch around our heads, detectron2's and a user's own."""

import logging

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from region_rebalance.functional import balanced_softmax_loss, pool_regions
from region_rebalance.head import RegionRebalanceHead
from torch import nn

from longtail.config import load_config
from longtail.engine.checkpoint import Checkpointer

K = 4
SHAPE = {"res2": ShapeSpec(channels=6, stride=4), "res5": ShapeSpec(channels=8, stride=8)}
COUNTS = torch.tensor([50, 20, 5, 1])


@SEM_SEG_HEADS_REGISTRY.register()
class UserHead(nn.Module):
    """What a user may have written: dropout and classifier in one Sequential, another name."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.ignore_value = 255
        self.layer = nn.Conv2d(8, 5, 1)
        self.classify = nn.Sequential(nn.Dropout2d(0.5), nn.Conv2d(5, K, 1))

    def forward(self, features, targets=None):
        logits = F.interpolate(self.classify(self.layer(features["res5"])), scale_factor=8)
        if not self.training:
            return logits, {}
        return None, {"loss_mine": F.cross_entropy(logits, targets, ignore_index=255)}


def make_cfg(base_head: str):
    cfg = load_config("")
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NUM_CLASSES, head.IN_FEATURES, head.NORM = K, ["res2", "res5"], "BN"
    head.CONVS_DIM, head.ASPP_CHANNELS, head.PROJECT_CHANNELS = 8, 8, [3]
    head.ASPP_DILATIONS, head.AUXILIARY.LOSS_WEIGHT = [1, 2, 3], 0.0
    head.LOSS_TYPE, head.COMMON_STRIDE = "cross_entropy", 4
    head.NAME = "RegionRebalanceHead"
    cfg.INPUT.CROP.ENABLED = False
    cfg.MODEL.REGION_REBALANCE.BASE_HEAD_NAME = base_head
    if base_head == "UserHead":
        cfg.MODEL.REGION_REBALANCE.PIXEL_CLASSIFIER = "classify"
    return cfg


def make_inputs(seed: int = 0, images: int = 2):
    generator = torch.Generator().manual_seed(seed)
    features = {
        "res2": torch.randn(images, 6, 16, 16, generator=generator),
        "res5": torch.randn(images, 8, 8, 8, generator=generator),
    }
    targets = torch.randint(0, K, (images, 64, 64), generator=generator)
    targets[:, :10] = 255
    return features, targets


def make_head(base_head: str = "FCNHead", **options) -> RegionRebalanceHead:
    cfg = make_cfg(base_head)
    base = SEM_SEG_HEADS_REGISTRY.get(base_head)(cfg, SHAPE)
    defaults = {
        "num_classes": K,
        "class_counts": COUNTS,
        "pixel_classifier": cfg.MODEL.REGION_REBALANCE.PIXEL_CLASSIFIER,
    }
    return RegionRebalanceHead(base, **{**defaults, **options})


HEADS = ["FCNHead", "SeparableDeepLabV3PlusHead", "DeepLabV3PlusHead", "UserHead"]


@pytest.mark.parametrize("name", HEADS)
def test_training_adds_the_region_loss_of_what_enters_the_classifier(name):
    head = make_head(name).train()
    features, targets = make_inputs()
    seen = []
    classifier = head.base_head.get_submodule(head.pixel_classifier)
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(3)
    output, losses = head(features, targets)
    torch.manual_seed(3)
    base_output, base_losses = head.base_head(features, targets)
    assert set(losses) == {*base_losses, "loss_region"}
    for key, value in base_losses.items():
        torch.testing.assert_close(losses[key], value, atol=0, rtol=0)
    assert output is None and base_output is None
    regions, classes = pool_regions(seen[0], targets, K)
    expected = 0.3 * balanced_softmax_loss(head.region_classifier(regions), classes, COUNTS)
    torch.testing.assert_close(losses["loss_region"], expected, atol=1e-7, rtol=0)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_inference_is_the_base_head_bit_for_bit(name):
    head = make_head(name).eval()
    features, _ = make_inputs()
    with torch.no_grad():
        logits, losses = head(features)
        expected, _ = head.base_head(features)
    assert losses == {} and torch.equal(logits, expected)


@pytest.mark.parametrize("name", HEADS)
def test_checkpoints_with_and_without_the_branch_are_interchangeable(name, tmp_path, caplog):
    head = make_head(name)
    baseline = SEM_SEG_HEADS_REGISTRY.get(name)(make_cfg(name), SHAPE)
    extra = {"region_classifier.weight", "region_classifier.bias"}
    assert set(head.state_dict()) == {*baseline.state_dict(), *extra}

    Checkpointer(nn.ModuleDict({"sem_seg_head": head}), str(tmp_path)).save("rr")
    with caplog.at_level(logging.INFO):
        Checkpointer(nn.ModuleDict({"sem_seg_head": baseline})).load(str(tmp_path / "rr.pth"))
    assert "not found in the checkpoint" not in caplog.text and "missing" not in caplog.text
    features, _ = make_inputs()
    with torch.no_grad():
        assert torch.equal(baseline.eval()(features)[0], head.eval()(features)[0])

    # And back: a baseline's checkpoint leaves the region classifier as it is, alone.
    other = make_head(name)
    result = other.load_state_dict(baseline.state_dict(), strict=False)
    assert set(result.missing_keys) == extra and not result.unexpected_keys
    other.load_state_dict(head.state_dict())
    for key, value in head.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_component_one_alone_is_plain_cross_entropy():
    head = make_head(balanced=False, loss_weight=1.0)
    x, targets = torch.randn(2, 8, 16, 16), make_inputs()[1]
    regions, classes = pool_regions(x, targets, K)
    expected = F.cross_entropy(head.region_classifier(regions), classes)
    torch.testing.assert_close(head.region_loss(x, targets), expected, atol=1e-7, rtol=0)


def test_a_hidden_layer_is_linear_relu_linear():
    head = make_head(hidden_channels=7)
    first, relu, last = head.region_classifier
    assert (first.in_features, first.out_features) == (8, 7) and isinstance(relu, nn.ReLU)
    assert (last.in_features, last.out_features) == (7, K)


def test_lambda_scales_the_loss():
    x, targets = torch.randn(2, 8, 16, 16), make_inputs()[1]
    head = make_head(loss_weight=0.3)
    at_03 = head.region_loss(x, targets)
    head.loss_weight = 0.6
    torch.testing.assert_close(head.region_loss(x, targets), 2 * at_03, atol=1e-7, rtol=0)


def test_an_image_without_valid_pixels_costs_nothing_and_backpropagates():
    head = make_head().train()
    features, targets = make_inputs()
    losses = head(features, torch.full_like(targets, 255))[1]
    assert losses["loss_region"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_class_that_the_counts_do_not_know_is_a_clear_error():
    head = make_head(class_counts=torch.tensor([50, 20, 5, 0])).train()
    with pytest.raises(ValueError, match=r"class \[3\] occurs"):
        head(*make_inputs())


def test_mixed_precision_pools_in_float32():
    head = make_head().train()
    features, targets = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head(features, targets)[1]["loss_region"]
    assert loss.dtype == torch.float32 and loss.isfinite()
    full = head(features, targets)[1]["loss_region"]
    # bfloat16 has 8 bits: logits of order 1 are off by about 2^-8.
    torch.testing.assert_close(loss, full, atol=0.02, rtol=0)


def test_the_head_is_built_from_the_config(monkeypatch):
    class Stats:
        image_count = COUNTS.numpy()

    monkeypatch.setattr("region_rebalance.head.get_class_stats", lambda names: Stats)
    cfg = make_cfg("FCNHead")
    cfg.MODEL.REGION_REBALANCE.LOSS_WEIGHT = 0.7
    cfg.MODEL.REGION_REBALANCE.SCOPE = "batch"
    cfg.MODEL.REGION_REBALANCE.LABEL_DOWNSAMPLING = "area"
    head = SEM_SEG_HEADS_REGISTRY.get("RegionRebalanceHead")(cfg, SHAPE)
    assert type(head.base_head).__name__ == "FCNHead"
    assert (head.loss_weight, head.scope, head.label_downsampling) == (0.7, "batch", "area")
    assert torch.equal(head.class_counts, COUNTS) and head.balanced


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_counts": torch.ones(3)}, r"class_counts must have shape \(4,\)"),
        ({"loss_weight": -0.1}, "must be >= 0, got -0.1"),
        ({"scope": "pixel"}, "SCOPE must be one of"),
        ({"label_downsampling": "cubic"}, "LABEL_DOWNSAMPLING must be one of"),
        ({"pixel_classifier": "clasifier"}, "has no pixel classifier 'clasifier'.*predictor"),
        ({"pixel_classifier": "join.norm"}, "a BatchNorm2d without a convolution"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_head(**options)


def test_a_head_cannot_wrap_itself():
    cfg = make_cfg("RegionRebalanceHead")
    with pytest.raises(ValueError, match="must name the head to wrap"):
        SEM_SEG_HEADS_REGISTRY.get("RegionRebalanceHead")(cfg, SHAPE)


@pytest.mark.parametrize("name", HEADS)
def test_normalizers_are_known_where_the_base_head_tells(name):
    """Regions at the stride of the pixel features, pixels by our own heads alone."""
    head, (_, targets) = make_head(name), make_inputs()
    targets[0, 20:] = 255
    targets[0, 10:20][targets[0, 10:20] == 2] = 1
    targets[0, 13, 9] = 2  # the image's only one, which no cell of stride 4 or 8 reads
    normalizers = head.loss_normalizers(targets)
    if name == "UserHead":
        assert normalizers == {}
        return
    stride = head.base_head.common_stride
    regions = sum(len(set(y[::stride, ::stride].flatten().tolist()) - {255}) for y in targets)
    assert normalizers.pop("loss_region").item() == regions < 8
    ours = name in ("FCNHead", "SeparableDeepLabV3PlusHead")
    valid = (targets != 255).sum().item()
    assert normalizers == ({"loss_sem_seg": valid} if ours else {})
