# SPDX-License-Identifier: Apache-2.0
"""The passes over a training set: without augmentation, changing nothing, in several processes."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from longtail.engine import Trainer
from longtail.engine.deployment.features import reading
from longtail.engine.deployment.post_hoc import post_hoc_change
from longtail.modeling.linear_classifiers import linear_classifiers
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import classification_config, register_colors, unregister
from tests.tiny_detection import detector_config, register_rectangles

NAMES = ("features_first", "features_second")
# Odd numbers of images: two processes have different ones.
TASKS = {
    "images": (classification_config, lambda *args: register_colors(*args, (3, 2, 2)), []),
    "pixels": (
        tiny_config,
        lambda *args: register_stripes(*args, 3),
        ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2"]],
    ),
    "boxes": (detector_config, lambda *args: register_rectangles(*args, 5), []),
}


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


def features_of(cfg, model):
    """All features and labels, of a pass of this process."""
    with reading(cfg, model, linear_classifiers(model, "test")) as read:
        parts = [(features, labels) for [features], labels in read()]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


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
    features, labels = features_of(cfg, model)
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert labels.tolist() == [record["label"] for record in records] == 2 * [0, 0, 0, 1, 1, 2, 2]
    assert not features.requires_grad and model.training
    assert features.std() > 1e-3


def test_a_pass_changes_nothing_and_has_no_chance(tmp_path, colors):
    cfg, model = build(tmp_path, colors[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (features_of(cfg, model)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def _means(folder, task):
    """The nearest means of a model in float64, all numbers of them."""
    configure, register, overrides = TASKS[task]
    folder.mkdir()
    name = register(NAMES[0], folder / "data")
    chosen = ["DATASETS.TRAIN", (name,), "MODEL.POST_HOC.METHOD", "ncm", *overrides]
    cfg = configure(folder, [*chosen, "MODEL.POST_HOC.SKIP_ABSENT", True])
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).double()
    [nearest] = post_hoc_change(cfg, model)[1]
    unregister(name)
    # That of boxes is beside the trained classifier.
    nearest = getattr(nearest, "nearest", nearest)
    return torch.cat([nearest.mean, nearest.means.flatten()])


def _of_process(rank, folder):
    for task in TASKS:
        torch.save(_means(folder / f"{task}{rank}", task), folder / f"{task}{rank}.pt")


def test_two_processes_find_what_one_does(tmp_path, monkeypatch):
    """They share the images and add up sums in float64."""
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    run_in_two_processes(_of_process, tmp_path)
    for task in TASKS:
        expected = _means(tmp_path / task, task)
        assert expected.abs().max() > 0.1
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{task}{rank}.pt")
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_no_training_set(tmp_path):
    with raises_naming(ValueError, "DATASETS.TRAIN", "empty"):
        features_of(*build(tmp_path))
