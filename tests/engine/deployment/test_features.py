# SPDX-License-Identifier: Apache-2.0
"""The features of a training set: one pass, without augmentation, also in several processes."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from longtail.engine import Trainer
from longtail.engine.deployment.features import training_features
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.tiny_classification import classification_config, register_colors, unregister

NAMES = ("features_first", "features_second")


@pytest.fixture
def colors(tmp_path):
    for seed, name in enumerate(NAMES):
        register_colors(name, tmp_path / name, (3, 2, 2), seed=seed)
    yield NAMES
    unregister(*NAMES)


def build(folder, *names):
    cfg = classification_config(folder, ["DATASETS.TRAIN", names])
    torch.manual_seed(0)
    return cfg, Trainer.build_model(cfg)


def test_features_are_those_of_the_images(tmp_path, colors):
    cfg, model = build(tmp_path, *colors)
    records = [record for name in colors for record in DatasetCatalog.get(name)]
    model.eval()
    expected = []
    for record in records:
        pixels = torch.from_numpy(np.array(Image.open(record["file_name"]))).permute(2, 0, 1)
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        )
        with torch.no_grad():
            expected.append(model.backbone.model(((pixels - mean) / std)[None])[0])
    model.train()
    features, labels = training_features(cfg, model)
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert labels.tolist() == [record["label"] for record in records] == 2 * [0, 0, 0, 1, 1, 2, 2]
    assert not features.requires_grad and model.training
    assert features.std() > 1e-3


def test_a_pass_changes_nothing_and_has_no_chance(tmp_path, colors):
    cfg, model = build(tmp_path, colors[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (training_features(cfg, model)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def _of_process(rank, folder):
    register_colors(NAMES[0], folder / f"images{rank}", (3, 2, 2))
    torch.save(training_features(*build(folder / f"config{rank}", NAMES[0])), folder / f"{rank}.pt")


def test_processes_share_the_images(tmp_path, colors):
    """Seven images in two processes: both get all of them, in order."""
    for rank in (0, 1):
        (tmp_path / f"config{rank}").mkdir()
    run_in_two_processes(_of_process, tmp_path)
    features, labels = training_features(*build(tmp_path, colors[0]))
    for rank in (0, 1):
        found, found_labels = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
        assert torch.equal(found_labels, labels)


def test_no_training_set(tmp_path):
    with raises_naming(ValueError, "DATASETS.TRAIN", "empty"):
        training_features(*build(tmp_path))
