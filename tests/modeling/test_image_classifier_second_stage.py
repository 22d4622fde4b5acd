# SPDX-License-Identifier: Apache-2.0
"""cRT and LWS: the contract of second stages, and what each one is."""

from typing import ClassVar

import pytest
import torch

from longtail.modeling.scaling import ClassScaling
from tests.messages import raises_naming
from tests.modeling.image_classifier_contract import SecondStageContract, disturb, scores
from tests.tiny_classification import classification_inputs


class TestRetrained(SecondStageContract):
    architecture = "RetrainedImageClassifier"
    without_decay: ClassVar[set[str]] = set()
    is_identity = False

    @pytest.fixture(autouse=True)
    def names_of_what_is_trained(self, classifier_type):
        ending = {"linear": "bias", "cosine": "scale"}[classifier_type]
        self.trained = {f"retrained_classifier.{name}" for name in ("weight", ending)}

    def test_the_new_classifier_is_new_and_of_the_first_ones_type(self, second):
        model = second().model
        assert type(model.retrained_classifier) is type(model.classifier)
        assert not torch.equal(model.retrained_classifier.weight, model.classifier.weight)
        model.retrained_classifier.load_state_dict(model.classifier.state_dict())
        model.eval()
        expected = model.classifier(model.features(classification_inputs())).softmax(dim=1)
        torch.testing.assert_close(scores(model), expected, rtol=0, atol=1e-6)

    def test_the_first_stage_may_have_had_a_loss_with_a_state(self, first, second):
        """The checkpoint of a Seesaw stage has counts, which plain cross-entropy does not take."""
        checkpoint = torch.load(first, weights_only=True)
        checkpoint["model"]["class_loss.class_counts"] = torch.ones(4)
        torch.save(checkpoint, first)
        trainer = second()
        for name, tensor in trainer.model.classifier.state_dict().items():
            assert torch.equal(tensor, checkpoint["model"][f"classifier.{name}"])
        checkpoint["model"]["other.class_counts"] = torch.ones(4)
        torch.save(checkpoint, first)
        with raises_naming(ValueError, "other.class_counts", "unexpected", "MODEL.WEIGHTS"):
            second()

    def test_balanced_group_softmax_starts_from_a_plain_first_stage(self, first, second):
        """As its authors train it: the new classifier has K + G outputs, the first one's stays."""
        bins = ["MODEL.CLASS_LOSS.BAGS_BINS", [3]]
        trainer = second("MODEL.CLASSIFIER.LOSS", "bags", *bins)
        before = {k: v.clone() for k, v in trainer.model.classifier.state_dict().items()}
        K = trainer.model.class_loss.num_classes
        assert len(trainer.model.classifier.weight) == K
        assert len(trainer.model.retrained_classifier.weight) == K + 2
        trainer.train()
        for name, tensor in trainer.model.classifier.state_dict().items():
            assert torch.equal(tensor, before[name])
        assert scores(trainer.model).shape[1] == K


class TestScaled(SecondStageContract):
    architecture = "ScaledImageClassifier"
    trained: ClassVar[set[str]] = {"scaling.factor"}
    without_decay: ClassVar[set[str]] = {"scaling.factor"}
    is_identity = True

    def test_logits_are_scaled_with_their_bias(self, second):
        model = second().model.eval()
        disturb(model, self.trained)
        inputs = classification_inputs()
        with torch.no_grad():
            features = model.features(inputs)
            given, plain = model.class_logits(features), model.classifier(features)
        for j, factor in enumerate(model.scaling.factor.tolist()):
            torch.testing.assert_close(given[:, j], factor * plain[:, j], rtol=0, atol=1e-5)

    def test_the_state_of_a_loss_is_of_the_second_stages_training(self, second):
        """Seesaw counts the classes that it sees; the first stage's checkpoint has no counts."""
        trainer = second("MODEL.CLASSIFIER.LOSS", "seesaw")
        trainer.train()
        # 3 iterations of 4 images.
        assert trainer.model.class_loss.class_counts.sum().item() == 12


def test_gradient_of_the_factors():
    """d CE / d f_j = mean_i (p_ij - [y_i = j]) z_ij, by the chain rule."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (9,), generator=generator)
    scaling = ClassScaling(4).double()
    torch.nn.functional.cross_entropy(scaling(z), y).backward()
    p = z.softmax(dim=1)
    for j in range(4):
        terms = [(float(p[i, j]) - float(y[i] == j)) * float(z[i, j]) for i in range(9)]
        assert scaling.factor.grad[j].item() == pytest.approx(sum(terms) / 9, abs=1e-14)
