# SPDX-License-Identifier: Apache-2.0
"""What every second stage of an image classifier must do, whatever it trains."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.engine import Trainer
from longtail.engine.checkpoint import Checkpointer
from tests.messages import raises_naming
from tests.tiny_classification import (
    TEST_COUNTS,
    classification_config,
    classification_inputs,
    register_colors,
    unregister,
)

TRAIN, TEST = "second_stage_colors_train", "second_stage_colors_test"


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, those outside checkpoints too."""
    everything = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in everything}


def scores(model: torch.nn.Module) -> torch.Tensor:
    """(N, K) of the tiny inputs."""
    model.eval()
    with torch.no_grad():
        return torch.stack([output["scores"] for output in model(classification_inputs())])


def disturb(model: torch.nn.Module, names: set[str]) -> None:
    """Move these parameters away from their start, in place."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in sorted(names):
            parameter = model.get_parameter(name)
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


class SecondStageContract:
    """Attributes: what a subclass is the contract of.

    Attributes:
        architecture: MODEL.META_ARCHITECTURE.
        trained: names of the parameters that are trained.
        without_decay: names of those that weight decay leaves alone.
        is_identity: whether the scores at the start are the first stage's.
    """

    architecture: str
    trained: ClassVar[set[str]]
    without_decay: ClassVar[set[str]]
    is_identity: bool

    @pytest.fixture(autouse=True)
    def data_sets(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
        register_colors(TRAIN, tmp_path / "train")
        register_colors(TEST, tmp_path / "test", TEST_COUNTS, seed=1, training_set=TRAIN)
        yield
        unregister(TRAIN, TEST)

    @pytest.fixture(params=["linear", "cosine"])
    def classifier_type(self, request):
        return request.param

    @pytest.fixture
    def configure(self, tmp_path, classifier_type):
        """A function that gives a tiny config on these data sets."""

        def get(*overrides):
            names = ["DATASETS.TRAIN", (TRAIN,), "DATASETS.TEST", (TEST,)]
            kind = ["MODEL.CLASSIFIER.TYPE", classifier_type]
            return classification_config(tmp_path, [*names, *kind, *overrides])

        return get

    @pytest.fixture
    def first(self, configure, tmp_path):
        """The checkpoint of a first stage whose scores and batch statistics have some spread."""
        torch.manual_seed(7)
        model = Trainer.build_model(configure()).train()
        with torch.no_grad(), EventStorage():
            for seed in range(10):
                model(classification_inputs(seed))
            torch.nn.init.normal_(model.classifier.weight)
        Checkpointer(model, str(tmp_path)).save("first")
        return str(tmp_path / "first.pth")

    @pytest.fixture
    def second(self, configure, first):
        """A function that gives a trainer of the second stage, at its start."""

        def get(*overrides, resume=False):
            names = ["MODEL.META_ARCHITECTURE", self.architecture, "MODEL.WEIGHTS", first]
            trainer = Trainer(configure(*names, "TEST.EVAL_PERIOD", 1, *overrides))
            trainer.resume_or_load(resume=resume)
            return trainer

        return get

    def test_scores_at_the_start(self, configure, first, second):
        model = Trainer.build_model(configure())
        Checkpointer(model).load(first)
        expected, trainer = scores(model), second()
        assert (expected.max(dim=0).values - expected.min(dim=0).values).max() > 0.001
        given = scores(trainer.model)
        assert torch.equal(given, expected) == self.is_identity
        # Which is no accident: what is trained shows.
        disturb(trainer.model, self.trained)
        assert (scores(trainer.model) - given).abs().max() > 0.01

    def test_training_changes_what_is_trained_and_nothing_else(self, second):
        trainer = second("SOLVER.BASE_LR", 1.0)
        assert any(isinstance(m, _BatchNorm) for m in trainer.model.backbone.modules())
        before = tensors(trainer.model)
        # With an evaluation after every iteration, which calls eval() and train().
        trainer.train()
        after = tensors(trainer.model)
        assert {name for name in before if not torch.equal(before[name], after[name])} == (
            self.trained
        )
        parameters = dict(trainer.model.named_parameters())
        assert {n for n, p in parameters.items() if p.grad is not None} == self.trained
        assert {n for n, p in parameters.items() if p.requires_grad} == self.trained

    def test_gradients_are_those_of_a_usual_step(self, second):
        """Against a backward pass through the whole model, with batch statistics of testing."""
        model = second().model.train()
        disturb(model, self.trained)
        inputs = classification_inputs()
        graphs = []
        model.backbone.register_forward_hook(lambda m, i, output: graphs.append(output["pooled"]))
        with EventStorage():
            given = model(inputs)["loss_cls"]
            given.backward()
            gradients = {name: model.get_parameter(name).grad.clone() for name in self.trained}
            assert not graphs[0].requires_grad
            model.requires_grad_(True).zero_grad()
            x = torch.stack([item["image"] for item in inputs])
            features = model.backbone((x - model.pixel_mean) / model.pixel_std)["pooled"]
            assert features.requires_grad
            classes = torch.tensor([item["label"] for item in inputs])
            loss = model.loss(features, classes)
            loss.backward()
        torch.testing.assert_close(given, loss, rtol=0, atol=1e-6)
        for name in self.trained:
            expected = model.get_parameter(name).grad
            assert expected.abs().max() > 1e-5, name
            torch.testing.assert_close(gradients[name], expected, rtol=0, atol=1e-6)

    def test_resuming(self, second):
        trainer = second("SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 1.0)
        trainer.train()
        resumed = second("SOLVER.MAX_ITER", 3, resume=True)
        assert resumed.start_iter == 2
        expected = tensors(trainer.model)
        for name, value in tensors(resumed.model).items():
            assert torch.equal(value, expected[name]), name
        momentum = resumed._trainer.optimizer.state_dict()["state"]
        assert len(momentum) == len(self.trained)
        resumed.train()
        assert resumed.iter == 3

    def test_a_step_in_bfloat16(self, second):
        trainer = second("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16")
        before = tensors(trainer.model)
        trainer.train()
        after = tensors(trainer.model)
        assert all(value.isfinite().all() for value in after.values())
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == self.trained

    def test_weights_of_another_model(self, configure, second, tmp_path):
        """A first stage without its classifier is none; nor is another backbone's."""
        state = torch.load(tmp_path / "first.pth", weights_only=True)["model"]
        del state["classifier.weight"]
        torch.save({"model": state}, tmp_path / "half.pth")
        with raises_naming(ValueError, "classifier.weight", "missing", "MODEL.WEIGHTS"):
            second("MODEL.WEIGHTS", str(tmp_path / "half.pth"))

    def test_it_needs_a_first_stage(self, second, tmp_path):
        with raises_naming(ValueError, "MODEL.WEIGHTS"):
            second("MODEL.WEIGHTS", "")
        Path(tmp_path / "output").mkdir(exist_ok=True)
        with raises_naming(FileNotFoundError, str(tmp_path / "nowhere.pth"), "MODEL.WEIGHTS"):
            second("MODEL.WEIGHTS", str(tmp_path / "nowhere.pth"))

    def test_the_trained_parameters_and_their_decay(self, second):
        trainer = second("SOLVER.WEIGHT_DECAY", 0.1)
        names = {parameter: name for name, parameter in trainer.model.named_parameters()}
        decays = {
            names[parameter]: group["weight_decay"]
            for group in trainer._trainer.optimizer.param_groups
            for parameter in group["params"]
        }
        assert self.without_decay <= self.trained
        assert decays == {n: 0.0 if n in self.without_decay else 0.1 for n in self.trained}
