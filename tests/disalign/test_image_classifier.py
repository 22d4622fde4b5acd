# SPDX-License-Identifier: Apache-2.0
"""DisAlign on images: the contract of second stages, its loss, and what it refuses."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from disalign.image_classifier import DisAlignImageClassifier

from longtail.engine import Trainer
from longtail.losses import CrossEntropy
from longtail.modeling import TimmClassificationBackbone
from tests.modeling.image_classifier_contract import SecondStageContract, disturb, scores
from tests.tiny_classification import (
    SIZE,
    TRAIN_COUNTS,
    classification_inputs,
    register_colors,
    unregister,
)

CALIBRATION = {f"calibration.{name}" for name in ("alpha", "beta")}
CONFIDENCE = {f"calibration.confidence_layer.{name}" for name in ("weight", "bias")}
DISALIGN = "MODEL.DISALIGN."


class TestDisAlign(SecondStageContract):
    architecture = "DisAlignImageClassifier"
    trained = CALIBRATION | CONFIDENCE
    without_decay = CALIBRATION
    is_identity = True

    @pytest.mark.parametrize("weighted_mean", [True, False])
    def test_loss_is_that_of_the_formula(self, second, weighted_mean):
        """Eq. 5, 9 and 11 in plain loops."""
        rho = 1.2
        model = second(f"{DISALIGN}RHO", rho, f"{DISALIGN}WEIGHTED_MEAN", weighted_mean).model
        disturb(model.train(), self.trained)
        inputs = classification_inputs()
        with EventStorage() as storage, torch.no_grad():
            loss = model(inputs)["loss_cls"].item()
            logged = storage.latest()
            features = model.features(inputs)
            logits = model.classifier(features).double().tolist()
            layer = model.calibration.confidence_layer
            x_gamma = (features.double() @ layer.weight[0].double()).tolist()
        alpha, beta = model.calibration.alpha.tolist(), model.calibration.beta.tolist()
        powers = [(1 / (n / sum(TRAIN_COUNTS))) ** rho for n in TRAIN_COUNTS]
        total = weights = 0.0
        for z, product, item in zip(logits, x_gamma, inputs, strict=True):
            sigma = 1 / (1 + math.exp(-product - layer.bias.item()))
            aligned = [
                sigma * (a * v + b) + (1 - sigma) * v
                for v, a, b in zip(z, alpha, beta, strict=True)
            ]
            y = item["label"]
            w = len(powers) * powers[y] / sum(powers)
            total -= w * (aligned[y] - math.log(sum(math.exp(v) for v in aligned)))
            weights += w
        expected = total / (weights if weighted_mean else len(inputs))
        assert loss == pytest.approx(expected, rel=1e-5)
        # All classes have fewer than 20 images.
        few = [value for key, (value, _) in logged.items() if key.endswith("/few")]
        assert len(few) == 5
        assert logged["disalign/alpha/few"][0] == pytest.approx(sum(alpha) / 3, abs=1e-6)

    def test_a_step_moves_the_statistics_of_a_released_confidence_once(self, second):
        model = second(f"{DISALIGN}CONFIDENCE_BRANCH", "released").model.train()
        with EventStorage():
            model(classification_inputs())
        assert model.calibration.confidence_norm.num_batches_tracked == 1

    def test_ablations(self, second):
        model = second(f"{DISALIGN}CONFIDENCE", False, f"{DISALIGN}MAGNITUDE", False).model
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {"calibration.beta"}

    @pytest.mark.parametrize("loss", ["bags", "eqlv2"])
    def test_a_first_stage_without_softmax(self, configure, loss):
        cfg = configure(
            *("MODEL.META_ARCHITECTURE", self.architecture, "MODEL.CLASSIFIER.LOSS", loss),
            *("MODEL.CLASS_LOSS.BAGS_BINS", [3]),
        )
        # With a cosine classifier the first stage itself is refused.
        message = "DisAlign .* of a softmax.*MODEL.CLASSIFIER.LOSS|cosine has no bias, and"
        with pytest.raises(ValueError, match=message) as info:
            Trainer.build_model(cfg)
        assert "\n" not in str(info.value)

    def test_a_class_without_images(self, configure, tmp_path):
        register_colors("colors_without_blue", tmp_path / "no_blue", (3, 2, 0))
        names = ("DATASETS.TRAIN", ("colors_without_blue",))
        architecture = ("MODEL.META_ARCHITECTURE", self.architecture)
        try:
            with pytest.raises(ValueError, match=r"class 2 \(blue\) does not occur in the train"):
                Trainer.build_model(configure(*names, *architecture))
            clamped = (f"{DISALIGN}CLAMP_ZERO_COUNTS", True)
            model = Trainer.build_model(configure(*names, *architecture, *clamped))
        finally:
            unregister("colors_without_blue")
        # As one image, with the default rho: 1 / 3^0.8, 1 / 2^0.8, 1.
        powers = [n**-0.8 for n in (3, 2, 1)]
        expected = torch.tensor([3 * p / sum(powers) for p in powers])
        torch.testing.assert_close(model.class_weights, expected)

    def test_inference_needs_no_training_set(self, configure, second):
        trained = second().model
        disturb(trained, self.trained)
        architecture = ("MODEL.META_ARCHITECTURE", self.architecture)
        model = Trainer.build_model(configure("DATASETS.TRAIN", (), *architecture))
        model.load_state_dict(trained.state_dict())
        assert torch.equal(scores(model), scores(trained))


def test_weights_of_another_number_of_classes():
    with pytest.raises(ValueError, match=r"class_weights must have shape \(3,\), got \(4,\)"):
        DisAlignImageClassifier(
            backbone=TimmClassificationBackbone(name="test_resnet", image_size=SIZE),
            class_loss=CrossEntropy(3),
            pixel_mean=(0, 0, 0),
            pixel_std=(1, 1, 1),
            class_weights=torch.ones(4),
            class_groups={},
        )
