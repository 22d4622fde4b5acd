# SPDX-License-Identifier: Apache-2.0
"""The image classifier and its backbone, against timm's own models and formulas in float64."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.engine import Trainer
from longtail.losses import CrossEntropy
from longtail.modeling import CosineLinear, ImageClassifier, TimmBackbone
from longtail.modeling import TimmClassificationBackbone as Backbone
from tests.messages import raises_naming
from tests.packaged_weights import packaged_state
from tests.tiny_classification import SIZE, classification_config, classification_inputs

LITE0 = "tf_efficientnet_lite0"


def images(count=2, size=64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained_parts(model, depth=1):
    names = [n for n, p in model.model.named_parameters() if p.requires_grad]
    return {".".join(name.split(".")[:depth]) for name in names}


# --- backbone ---


@pytest.mark.parametrize(
    ("name", "size"),
    # A convolutional network, one with layers between the maps and the classifier, a transformer.
    [("test_resnet", 64), ("mobilenetv3_small_050", 64), ("test_vit", 160), ("test_convnext", 64)],
)
def test_vectors_are_what_enters_timms_classifier(name, size):
    backbone = Backbone(name=name, image_size=size).eval()
    whole = timm.create_model(name).eval()
    own = backbone.model.state_dict()
    _, unexpected = whole.load_state_dict(own, strict=False)
    assert not unexpected
    x = images(size=size)
    with torch.no_grad():
        pooled = backbone(x)["pooled"]
        logits = whole(x)
        shape = backbone.output_shape()["pooled"]
        assert pooled.shape == (2, shape.channels) and not torch.equal(*pooled)
        torch.testing.assert_close(whole.get_classifier()(pooled), logits, rtol=0, atol=1e-5)
    # Images are not padded.
    assert backbone.size_divisibility == 0 and shape.stride is None


def resnext_parameters(layers, cardinality=32, base_width=4, num_classes=1000):
    """Counted from the architecture: stem, 1x1 - grouped 3x3 - 1x1 blocks, classifier."""
    total, entering = 3 * 64 * 7 * 7 + 2 * 64, 64
    for stage, blocks in enumerate(layers):
        width, leaving = cardinality * base_width * 2**stage, 256 * 2**stage
        for block in range(blocks):
            total += entering * width + 2 * width
            total += 9 * width * (width // cardinality) + 2 * width
            total += width * leaving + 2 * leaving
            if block == 0:
                total += entering * leaving + 2 * leaving
            entering = leaving
    return total + entering * num_classes + num_classes


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnext50_32x4d", (3, 4, 6, 3)),
        ("resnext101_32x4d", (3, 4, 23, 3)),
        ("resnext152_32x4d", (3, 8, 36, 3)),
    ],
)
def test_parameters_of_resnext(name, layers):
    """timm's own 50 and 101 agree with the count; 152, which timm does not have, is ours."""
    with torch.device("meta"):
        model = timm.create_model(name)
        backbone = Backbone(name=name)
    assert sum(p.numel() for p in model.parameters()) == resnext_parameters(layers)
    assert [len(getattr(model, f"layer{i}")) for i in (1, 2, 3, 4)] == list(layers)
    assert backbone.output_shape()["pooled"].channels == 2048


def test_resnext152_has_no_weights():
    with raises_naming(ValueError, "MODEL.TIMM.PRETRAINED", "resnext152_32x4d"):
        Backbone(name="resnext152_32x4d", pretrained="timm")


def test_package_weights_fill_the_whole_backbone():
    backbone = Backbone(name=LITE0, pretrained="package", image_size=64).eval()
    whole = timm.create_model(LITE0).eval()
    whole.load_state_dict(packaged_state())
    x = images()
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(x), pre_logits=True)
        assert torch.equal(backbone(x)["pooled"], expected)


# In the order in which they run; the first two are the stem.
RESNET = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_levels(freeze_at):
    backbone = Backbone(name="test_resnet", image_size=SIZE, freeze_at=freeze_at).train()
    frozen = set(RESNET[: freeze_at + 1]) if freeze_at else set()
    assert trained_parts(backbone) == set(RESNET) - frozen
    # The same parts as those of the backbone for maps, which has them tested.
    pyramid = TimmBackbone(name="test_resnet", freeze_at=freeze_at)
    assert trained_parts(backbone) == trained_parts(pyramid)
    before = {n: t.clone() for n, t in backbone.model.state_dict().items()}
    backbone(images(size=SIZE))
    moved = {
        n.split(".")[0] for n, t in backbone.model.state_dict().items() if not t.equal(before[n])
    }
    assert moved == trained_parts(backbone)


def test_frozen_levels_of_a_network_with_layers_after_the_last_level():
    """Those that make the vector follow stride 32."""
    model = Backbone(name=LITE0, image_size=64, freeze_at=4)
    assert trained_parts(model) == {"blocks", "conv_head", "bn2"}
    assert trained_parts(model, 2) & {f"blocks.{i}" for i in range(7)} == {"blocks.5", "blocks.6"}
    assert not trained_parts(Backbone(name=LITE0, image_size=64, freeze_at=5))


def test_frozen_batch_normalization():
    backbone = Backbone(name="test_resnet", image_size=SIZE, norm="FrozenBN").train()
    assert not any(isinstance(m, _BatchNorm) for m in backbone.modules())
    x = images(size=SIZE)
    assert torch.equal(backbone(x)["pooled"], backbone.eval()(x)["pooled"])


@pytest.mark.parametrize(
    ("options", "key", "parts"),
    [
        ({"name": "resnet51"}, "NAME", ["'resnet51'", "resnet50"]),
        (
            {"name": "vit_tiny_patch16_224", "image_size": 8},
            "NAME",
            ["vit_tiny_patch16_224", "8 x 8", "INPUT.CLASSIFICATION.SIZE"],
        ),
        ({"name": "test_vit", "image_size": 160, "freeze_at": 1}, "FREEZE_AT", ["test_vit", "1"]),
        ({"freeze_at": 6}, "FREEZE_AT", ["0 .. 5", "6"]),
        ({"norm": "GN"}, "NORM", ["['BN', 'FrozenBN']", "'GN'"]),
        ({"drop_path": 1.0}, "DROP_PATH", ["[0, 1)", "1.0"]),
        ({"pretrained": "package"}, "PRETRAINED", [LITE0, "test_resnet"]),
    ],
    ids=str,
)
def test_bad_options_of_the_backbone(options, key, parts):
    with raises_naming(ValueError, f"MODEL.TIMM.{key}", *parts):
        Backbone(**{"name": "test_resnet", **options})


@pytest.mark.parametrize(
    ("key", "value", "expected"), [("OUTPUT_STRIDE", 8, "32"), ("CHECKPOINTING", True, "False")]
)
def test_options_that_the_backbone_has_not(tmp_path, key, value, expected):
    cfg = classification_config(tmp_path, [f"MODEL.TIMM.{key}", value])
    with raises_naming(ValueError, f"MODEL.TIMM.{key}", expected, str(value)):
        Trainer.build_model(cfg)


# --- classifier ---


def build(tmp_path, *overrides) -> ImageClassifier:
    torch.manual_seed(0)
    model = Trainer.build_model(classification_config(tmp_path, overrides))
    with torch.no_grad():
        # Scores with some spread; a new classifier gives nearly the same to all classes.
        nn.init.normal_(model.classifier.weight)
    return model


def reference_logits(model, inputs):
    """(N, K) in float64 loops: timm's model on normalized images, then w.x + b."""
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    rows = []
    for item in inputs:
        image = item["image"].double()
        for c in range(3):
            image[c] = (image[c] - mean[c]) / std[c]
        with torch.no_grad():
            feature = model.backbone.model.double()(image[None])[0].tolist()
        model.backbone.model.float()
        weight, bias = model.classifier.weight.tolist(), model.classifier.bias.tolist()
        pairs = zip(weight, bias, strict=True)
        rows.append([sum(a * x for a, x in zip(w, feature, strict=True)) + b for w, b in pairs])
    return rows


def test_scores_and_loss_are_those_of_the_formula(tmp_path):
    model, inputs = build(tmp_path).eval(), classification_inputs()
    expected, loss = [], 0.0
    for logits, item in zip(reference_logits(model, inputs), inputs, strict=True):
        total = sum(math.exp(z) for z in logits)
        expected.append([math.exp(z) / total for z in logits])
        loss -= math.log(expected[-1][item["label"]]) / len(inputs)
    with torch.no_grad():
        outputs = model(inputs)
        assert [set(output) for output in outputs] == [{"scores"}] * len(inputs)
        scores = torch.stack([output["scores"] for output in outputs])
        torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=1e-5)
        assert (scores.max(dim=0).values - scores.min(dim=0).values).max() > 0.05
        # In training batch statistics would be others: those of testing, with the training's loss.
        model.training = True
        losses = model(inputs)
    assert losses.keys() == {"loss_cls"}
    assert losses["loss_cls"].item() == pytest.approx(loss, abs=1e-5)


def test_scores_of_half_precision_layers_are_float32(tmp_path):
    """They add up to 1, which bfloat16's 8 bits would not."""
    model = build(tmp_path).eval().bfloat16()
    with torch.no_grad():
        for output in model(classification_inputs()):
            assert output["scores"].dtype == torch.float32
            assert output["scores"].sum().item() == pytest.approx(1, abs=1e-6)


def test_an_image_has_its_scores_in_every_batch(tmp_path):
    model, inputs = build(tmp_path).eval(), classification_inputs()
    with torch.no_grad():
        together = model(inputs)
        alone = [model([item])[0] for item in inputs]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-6)


def test_everything_gets_a_gradient(tmp_path):
    model = build(tmp_path).train()
    model(classification_inputs())["loss_cls"].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.classifier.weight.grad.abs().max() > 0


def test_new_classifiers(tmp_path):
    torch.manual_seed(0)
    cfg = classification_config(tmp_path, ["MODEL.CLASSIFIER.NUM_CLASSES", 200])
    linear = Trainer.build_model(cfg).classifier
    # 200 x 96 values: the deviation of their standard deviation is 0.01 / sqrt(2 x 19200).
    assert abs(linear.weight.std().item() - 0.01) < 5 * 0.01 / math.sqrt(2 * 200 * 96)
    assert not linear.bias.any()
    cfg = classification_config(tmp_path, ["MODEL.CLASSIFIER.TYPE", "cosine"])
    model = Trainer.build_model(cfg)
    assert isinstance(model.classifier, CosineLinear)
    assert model.classifier.weight.shape == (3, 96)
    with torch.no_grad():
        for output in model.eval()(classification_inputs()):
            assert output["scores"].sum().item() == pytest.approx(1, abs=1e-6)


class TwoOutputsAClass(CrossEntropy):
    """A loss that needs more outputs than classes, and starts from a bias."""

    initial_bias = -2.0

    @property
    def num_logits(self):
        return 2 * self.num_classes

    def probabilities(self, logits):
        return logits[:, ::2].sigmoid()


def test_the_loss_says_how_many_outputs_and_what_their_probabilities_are():
    model = ImageClassifier(
        backbone=Backbone(name="test_resnet", image_size=SIZE),
        class_loss=TwoOutputsAClass(3),
        pixel_mean=(0, 0, 0),
        pixel_std=(1, 1, 1),
    ).eval()
    assert model.classifier.weight.shape == (6, 96)
    assert model.classifier.bias.tolist() == [-2.0] * 6
    inputs = classification_inputs()
    with torch.no_grad():
        logits = model.class_logits(model.features(inputs))
        for row, output in zip(logits, model(inputs), strict=True):
            torch.testing.assert_close(output["scores"], row[[0, 2, 4]].sigmoid())


def test_checkpoints_hold_weights_alone(tmp_path):
    keys = build(tmp_path).state_dict().keys()
    assert {key.split(".")[0] for key in keys} == {"backbone", "classifier"}


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("MODEL.CLASSIFIER.TYPE", "quadratic", ["'linear'", "'cosine'", "'quadratic'"]),
        ("MODEL.CLASSIFIER.LOSS", "crossentropy", ["cross_entropy", "'crossentropy'"]),
        ("MODEL.BACKBONE.NAME", "TimmBackbone", ["TimmClassificationBackbone", "TimmBackbone"]),
    ],
)
def test_bad_options_of_the_classifier(tmp_path, key, value, parts):
    with raises_naming(ValueError, key, *parts):
        Trainer.build_model(classification_config(tmp_path, [key, value]))
