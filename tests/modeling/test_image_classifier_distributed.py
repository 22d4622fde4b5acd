# SPDX-License-Identifier: Apache-2.0
"""Two processes train an image classifier as one process with the whole batch does."""

import os
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from longtail.engine import Trainer
from longtail.engine.training.stages import freeze, is_second_stage
from tests.processes import run_in_two_processes
from tests.tiny_classification import (
    TEST_COUNTS,
    classification_config,
    classification_inputs,
    register_colors,
    unregister,
)

ARCHITECTURES = (
    "ImageClassifier",
    "RetrainedImageClassifier",
    "ScaledImageClassifier",
    "DisAlignImageClassifier",
)
TRAIN, TEST = "distributed_colors_train", "distributed_colors_test"
FIXED = ("MODEL.TIMM.NORM", "FrozenBN", "DATASETS.TRAIN", (TRAIN,), "DATASETS.TEST", (TEST,))


def register(folder: Path) -> None:
    os.environ["LONGTAIL_CACHE"] = str(folder / "cache")
    register_colors(TRAIN, folder / "train")
    register_colors(TEST, folder / "test", TEST_COUNTS, seed=1, training_set=TRAIN)


def gradients(folder: Path, architecture: str, inputs: list[dict], wrap) -> dict:
    """What a step gives to all that is trained; batch statistics are fixed."""
    torch.manual_seed(0)
    options = [*FIXED, "MODEL.META_ARCHITECTURE", architecture]
    model = Trainer.build_model(classification_config(folder, options)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter))
    if is_second_stage(model):
        freeze(model)
    # Kept: without it nothing would be averaged.
    wrapped = wrap(model)
    with EventStorage():
        wrapped(inputs)["loss_cls"].backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def worker(rank: int, folder: Path) -> None:
    own = folder / str(rank)
    own.mkdir()
    register(own)
    # The classes are unevenly distributed: 0 0 1 1 on the first process, 2 2 on the second.
    inputs = sorted(classification_inputs(), key=lambda item: item["label"])
    part = inputs[:4] if rank == 0 else inputs[4:]
    for architecture in ARCHITECTURES:
        given = gradients(own, architecture, part, DistributedDataParallel)
        torch.save(given, own / f"{architecture}.pth")
    results = {}
    for architecture in ("ImageClassifier", "DisAlignImageClassifier"):
        weights = str(folder / "0" / "trained" / "model_final.pth")
        second = architecture != "ImageClassifier"
        cfg = classification_config(
            own,
            [
                *(*FIXED, "MODEL.META_ARCHITECTURE", architecture, "SOLVER.MAX_ITER", 2),
                *("OUTPUT_DIR", str(own / "trained"), "MODEL.WEIGHTS", weights if second else ""),
            ],
        )
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        results[architecture] = Trainer.test(cfg, trainer.model)
        results[f"{architecture} weights"] = trainer.model.module.state_dict()
    torch.save(results, own / "results.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    run_in_two_processes(worker, folder)
    return folder


@pytest.fixture
def colors(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    register(tmp_path)
    yield
    unregister(TRAIN, TEST)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_those_of_one_process(folder, tmp_path, colors, architecture):
    inputs = sorted(classification_inputs(), key=lambda item: item["label"])
    expected = gradients(tmp_path, architecture, inputs, lambda model: model)
    for rank in ("0", "1"):
        given = torch.load(folder / rank / f"{architecture}.pth", weights_only=True)
        assert given.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(given[name], gradient, rtol=0, atol=1e-5)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01


def test_training_and_testing_in_two_processes(folder, tmp_path, colors):
    """They stay in step, and the main process alone has the figures of all 9 images."""
    main, other = (
        torch.load(folder / rank / "results.pth", weights_only=True) for rank in ("0", "1")
    )
    for architecture in ("ImageClassifier", "DisAlignImageClassifier"):
        for name, value in main[f"{architecture} weights"].items():
            assert torch.equal(value, other[f"{architecture} weights"][name]), name
        assert not other[architecture]
        # The same weights in one process.
        options = [*FIXED, "MODEL.META_ARCHITECTURE", architecture]
        cfg = classification_config(tmp_path, options)
        model = Trainer.build_model(cfg)
        model.load_state_dict(main[f"{architecture} weights"])
        expected = Trainer.test(cfg, model)["classification"]
        assert main[architecture]["classification"] == pytest.approx(expected, nan_ok=True)
