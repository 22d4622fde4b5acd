# SPDX-License-Identifier: Apache-2.0
"""What every semantic head promises. A head's own test class states its facts and inherits this.

Shapes: two images of 64 x 96 pixels, K = 3 classes, levels of few channels at output stride 8.
"""

from typing import ClassVar

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from region_rebalance.head import RegionRebalanceHead
from torch import nn
from torch.nn import functional as F

from longtail.engine import Trainer
from longtail.modeling import SemSegHead
from longtail.modeling.sem_seg.base import PixelClassifier
from tests.messages import raises_naming
from tests.tiny import tiny_config

STRIDES = {"res2": 4, "res3": 8, "res4": 8, "res5": 8}
NARROW = {"res2": 6, "res3": 8, "res4": 10, "res5": 12}
RESNET50 = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
COUNTS = torch.tensor([50, 20, 5])
N, K, HEIGHT, WIDTH = 2, 3, 64, 96


def level_shapes(channels: dict[str, int]) -> dict[str, ShapeSpec]:
    """Levels at output stride 8."""
    return {key: ShapeSpec(channels=c, stride=STRIDES[key]) for key, c in channels.items()}


class SemSegHeadContract:
    """A subclass sets ``name``, ``parameters`` and what differs from the defaults below."""

    name: str
    # In millions, with 150 classes on ``backbone``, without the auxiliary head.
    parameters: float
    backbone: dict = RESNET50
    # In MODEL.SEM_SEG_HEAD: the paper's, and narrow ones for all other tests.
    paper: ClassVar[dict] = {}
    overrides: ClassVar[dict] = {}
    losses: tuple = ("loss_sem_seg", "loss_auxiliary")
    # Of the error for no IN_FEATURES.
    no_levels: tuple = ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "res2")

    @pytest.fixture
    def cfg(self, tmp_path):
        return self.configure(tiny_config(tmp_path), {"CONVS_DIM": 8, **self.overrides})

    def configure(self, cfg, options):
        options = {"NAME": self.name, **options}
        cfg.MODEL.SEM_SEG_HEAD.merge_from_list([x for pair in options.items() for x in pair])
        return cfg

    def build(self, cfg, channels=NARROW) -> SemSegHead:
        torch.manual_seed(0)
        return SEM_SEG_HEADS_REGISTRY.get(self.name)(cfg, level_shapes(channels))

    @pytest.fixture
    def head(self, cfg):
        return self.build(cfg)

    @pytest.fixture
    def features(self):
        generator = torch.Generator().manual_seed(1)
        return {
            key: torch.randn(
                N, c, HEIGHT // STRIDES[key], WIDTH // STRIDES[key], generator=generator
            ).requires_grad_()
            for key, c in NARROW.items()
        }

    @pytest.fixture
    def labels(self):
        labels = torch.randint(0, K, (N, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(2))
        labels[:, :8] = 255
        return labels

    def test_number_of_parameters(self, cfg):
        self.configure(cfg, {"CONVS_DIM": 512, "NUM_CLASSES": 150, **self.paper})
        cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT = 0.0
        with torch.device("meta"):
            head = self.build(cfg, self.backbone)
        count = sum(parameter.numel() for parameter in head.parameters())
        assert round(count / 1e6, 3) == self.parameters

    def test_initial_weights(self, head):
        """Convolutions without bias before BN; the classifier N(0, 0.01) with bias 0."""
        for key, module in head.named_modules():
            if isinstance(module, nn.Conv2d):
                assert (module.bias is not None) == key.endswith("predictor"), key
            if isinstance(module, nn.BatchNorm2d):
                assert (module.eps, module.momentum) == (1e-5, 0.1), key
        assert (head.predictor.bias == 0).all()
        assert head.predictor.dropout == 0.1

    def test_initial_weights_of_a_wide_head(self, cfg):
        """N(0, 2 / fan-out) of convolutions, N(0, 0.01) of classifiers: 5 standard errors."""
        head = self.build(self.configure(cfg, {"CONVS_DIM": 48, "NUM_CLASSES": 150}))
        convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) > 4
        for conv in convolutions:
            std = 0.01
            if not isinstance(conv, PixelClassifier):
                std = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
            # The relative error of a standard deviation of n samples is 1 / sqrt(2 n).
            error = 5 / (2 * conv.weight.numel()) ** 0.5
            assert conv.weight.std().item() == pytest.approx(std, rel=error), conv
            assert abs(conv.weight.mean().item()) < 5 * std / conv.weight.numel() ** 0.5, conv

    def test_dropout_and_ignored_label_of_the_config(self, cfg, features, labels):
        cfg.MODEL.SEM_SEG_HEAD.DROPOUT, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 0.3, 7
        head = self.build(cfg).train()
        for part in (head, head.auxiliary):
            assert part.predictor.dropout == 0.3 and part.ignore_value == 7
        losses = head(features, torch.full_like(labels, 7))[1]
        assert all(loss.item() == 0 for loss in losses.values())

    def test_evaluation_gives_logits_at_image_size(self, head, features):
        logits, losses = head.eval()(features)
        assert logits.shape == (N, K, HEIGHT, WIDTH)
        assert logits.isfinite().all()
        assert losses == {}

    def test_evaluation_is_deterministic_and_ignores_labels(self, head, features, labels):
        head.eval()
        assert torch.equal(head(features)[0], head(features, labels)[0])

    def test_training_gives_the_losses(self, head, features, labels):
        logits, losses = head.train()(features, labels)
        assert logits is None
        assert losses.keys() == set(self.losses)
        assert all(loss.shape == () and loss > 0 for loss in losses.values())

    def test_every_parameter_learns(self, head, features, labels):
        sum(head.train()(features, labels)[1].values()).backward()
        for key, parameter in head.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key

    def test_a_batch_without_valid_pixels_backpropagates(self, head, features, labels):
        losses = head.train()(features, torch.full_like(labels, 255))[1]
        assert all(loss.item() == 0 for loss in losses.values())
        sum(losses.values()).backward()
        for key, parameter in head.named_parameters():
            assert parameter.grad is not None, key
            assert (parameter.grad == 0).all(), key

    def test_pixel_features_enter_the_predictor_before_its_dropout(self, head, features, labels):
        entered = []
        head.predictor.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        head.predictor.dropout = 0.5
        head.train()(features, labels)
        expected = head.pixel_features(features)
        assert len(entered) == 1
        torch.testing.assert_close(entered[0], expected, atol=1e-6, rtol=0)
        assert expected.shape[2:] == (HEIGHT // head.common_stride, WIDTH // head.common_stride)

    def test_dropout_drops_whole_channels_in_training_alone(self, head, features):
        predictor = head.predictor
        predictor.weight.data.zero_()
        predictor.weight.data[:, :K, 0, 0] = torch.eye(K)
        predictor.dropout = 0.5
        x = torch.ones(200, predictor.in_channels, 2, 2)
        dropped = predictor.train()(x) - predictor.bias[:, None, None]
        values = dropped.flatten(2)
        # A channel is dropped, or scaled by 1 / (1 - 0.5), everywhere alike.
        assert (values == values[..., :1]).all()
        assert set(values.unique().tolist()) == {0.0, 2.0}
        assert 0.4 < (values == 0).float().mean() < 0.6
        kept = predictor.eval()(x) - predictor.bias[:, None, None]
        torch.testing.assert_close(kept, torch.ones_like(kept), atol=1e-6, rtol=0)

    def test_losses_are_cross_entropies_at_label_size_with_their_weights(
        self, cfg, features, labels
    ):
        """Of the logits resized to the labels: the weight of the config, and 0.4."""
        cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 1.5
        head = self.build(cfg).train()
        classifiers = {"loss_sem_seg": head.predictor, "loss_auxiliary": head.auxiliary.predictor}
        logits = {}
        for name, classifier in classifiers.items():
            # The usual small weights would give the same loss, log K, whatever the features.
            nn.init.normal_(classifier.weight)
            classifier.register_forward_hook(
                lambda module, inputs, output, name=name: logits.update({name: output})
            )
        losses = head(features, labels)[1]
        for name, weight in (("loss_sem_seg", 1.5), ("loss_auxiliary", 0.4)):
            size = labels.shape[1:]
            z = F.interpolate(logits[name], size, mode="bilinear", align_corners=False)
            expected = weight * F.cross_entropy(z, labels, ignore_index=255)
            assert logits[name].std() > 0.1
            torch.testing.assert_close(losses[name], expected)

    def test_the_auxiliary_head_is_optional(self, cfg, features, labels):
        cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT = 0.0
        head = self.build(cfg).train()
        assert head.auxiliary is None
        assert head(features, labels)[1].keys() == set(self.losses) - {"loss_auxiliary"}

    def test_state_dict_round_trip(self, cfg, head, features):
        other = self.build(cfg)
        for parameter in other.parameters():
            parameter.data.normal_()
        other.load_state_dict(head.state_dict())
        assert torch.equal(other.eval()(features)[0], head.eval()(features)[0])

    def test_under_region_rebalance(self, cfg, head, features, labels):
        """The branch adds its loss in training, and is absent in evaluation and from the logits."""
        wrapped = RegionRebalanceHead(self.build(cfg), num_classes=K, class_counts=COUNTS)
        losses = wrapped.train()(features, labels)[1]
        assert losses.keys() == {*self.losses, "loss_region"}
        sum(losses.values()).backward()
        for key, parameter in wrapped.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, key
        with torch.no_grad():
            logits, none = wrapped.eval()(features)
            result = head.eval().load_state_dict(wrapped.state_dict(), strict=False)
            expected = head(features)[0]
        assert none == {} and torch.equal(logits, expected)
        own = {f"region_classifier.{name}" for name in ("weight", "bias")}
        assert set(result.unexpected_keys) == own and not result.missing_keys

    def test_images_of_any_size_in_a_segmentor(self, cfg):
        cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        model = Trainer.build_model(cfg)
        torch.manual_seed(0)
        inputs = [
            {
                "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
                "sem_seg": torch.randint(0, K, size),
                "height": 20,
                "width": 31,
            }
            for size in ((37, 50), (64, 33))
        ]
        losses = model.train()(inputs)
        assert all(loss.isfinite() for loss in losses.values())
        with torch.no_grad():
            outputs = model.eval()(inputs)
        assert [output["sem_seg"].shape for output in outputs] == [(K, 20, 31)] * 2

    def test_bfloat16_autocast(self, head, features, labels):
        plain = head.eval()(features)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = head(features)[0]
            losses = head.train()(features, labels)[1]
        # bfloat16 has 8 bits: one part in 256 a rounding, a few of them.
        assert (half.float() - plain).norm() < 0.05 * plain.norm()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        sum(losses.values()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())

    @pytest.mark.parametrize("key", ["IN_FEATURES", "AUXILIARY.IN_FEATURE"])
    def test_a_level_that_the_backbone_lacks(self, cfg, key):
        head = cfg.MODEL.SEM_SEG_HEAD
        value = "res9" if key.startswith("AUX") else [*head.IN_FEATURES[:-1], "res9"]
        head.merge_from_list([key, value])
        with raises_naming(ValueError, "MODEL.SEM_SEG_HEAD", "'res9'", "OUT_FEATURES"):
            self.build(cfg)

    @pytest.mark.parametrize(
        ("key", "value", "shown"),
        [("NORM", "FOO", "'FOO'"), ("CONVS_DIM", 0, "[0]"), ("AUXILIARY.CONVS_DIM", 0, "[0]")],
    )
    def test_bad_options_are_named(self, cfg, key, value, shown):
        cfg.MODEL.SEM_SEG_HEAD.merge_from_list([key, value])
        with raises_naming(ValueError, f"MODEL.SEM_SEG_HEAD.{key}", shown):
            self.build(cfg)

    def test_a_head_without_levels(self, cfg):
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = []
        with raises_naming(ValueError, *self.no_levels):
            self.build(cfg)
