# SPDX-License-Identifier: Apache-2.0
"""A batch of images in parts has the gradient of the batch at once."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from longtail.engine import Trainer
from longtail.engine.training.accumulation import part_weights, split_batch
from longtail.engine.training.stages import freeze, is_second_stage
from longtail.engine.training.step import StepTrainer
from tests.messages import raises_naming
from tests.tiny_classification import (
    classification_config,
    classification_inputs,
    register_colors,
    unregister,
)

TRAIN = "accumulation_colors"
# Batch statistics would be those of the parts.
FIXED = ("MODEL.TIMM.NORM", "FrozenBN", "DATASETS.TRAIN", (TRAIN,))
ARCHITECTURE, LOSS = "MODEL.META_ARCHITECTURE", "MODEL.CLASSIFIER.LOSS"
UNWEIGHTED = ("MODEL.DISALIGN.WEIGHTED_MEAN", False)
MODELS = {
    "cross_entropy": (),
    "focal": (LOSS, "focal"),
    "reweighted": (LOSS, "reweighted_cross_entropy"),
    "class_balanced": (LOSS, "class_balanced", "MODEL.CLASS_LOSS.EFFECTIVE_NUMBER_BETA", 0.9),
    "ldam_drw": (LOSS, "ldam_drw", "MODEL.CLASS_LOSS.LDAM_REWEIGHT_FROM", 0.0),
    "cRT": (ARCHITECTURE, "RetrainedImageClassifier", LOSS, "reweighted_cross_entropy"),
    "DisAlign": (ARCHITECTURE, "DisAlignImageClassifier"),
    "DisAlign, mean": (ARCHITECTURE, "DisAlignImageClassifier", *UNWEIGHTED),
}
WEIGHTED = ("reweighted", "class_balanced", "ldam_drw", "cRT", "DisAlign")


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    register_colors(TRAIN, tmp_path / "train")

    def build(*overrides):
        torch.manual_seed(0)
        cfg = classification_config(tmp_path, [*FIXED, *overrides])
        model = Trainer.build_model(cfg).train()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.startswith("backbone"):
                    parameter.add_(torch.randn_like(parameter))
        if is_second_stage(model):
            freeze(model)
        return model

    yield build
    unregister(TRAIN)


def make_batch():
    """Two parts with frequent classes alone, two with rare ones."""
    return sorted(classification_inputs(count=8), key=lambda item: item["label"])


def update(model, parts, batch):
    """Minus the gradient: what a step of SGD with learning rate 1 adds to what is trained."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    trainer = StepTrainer(model, [batch], optimizer, "cpu", accumulation_steps=parts)
    with EventStorage():
        trainer.run_step()
    return torch.cat([(p - before[name]).flatten() for name, p in trained.items()]).detach()


@pytest.mark.parametrize("name", MODELS)
def test_parts_have_the_gradient_of_the_batch(build, name, monkeypatch):
    batch = make_batch()
    expected = update(build(*MODELS[name]), 1, batch)
    difference = (update(build(*MODELS[name]), 4, batch) - expected).norm()
    assert expected.norm() > 1e-3 and difference < 1e-5 * expected.norm()
    # A plain mean of the parts is something else where images have weights.
    monkeypatch.setattr(
        "longtail.engine.training.step.part_weights", lambda _, parts: [{} for _ in parts]
    )
    difference = (update(build(*MODELS[name]), 4, batch) - expected).norm()
    assert (difference > 0.01 * expected.norm()) == (name in WEIGHTED)


def test_losses_that_do_not_add_up(build):
    model = build(LOSS, "bags", "MODEL.CLASS_LOSS.BAGS_BINS", [3])
    with raises_naming(ValueError, "SOLVER.ACCUMULATION_STEPS", "1", "bags"):
        part_weights(model, split_batch(make_batch(), 2))
    assert part_weights(model, [make_batch()]) == [{}]
