# SPDX-License-Identifier: Apache-2.0
"""alpha, beta and sigma of the second stages of classification and segmentation."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from disalign.analysis.calibrations import load_model, sigma_by_group
from disalign.commands import plot_calibration

from longtail.engine import Trainer
from tests.tiny import register_stripes, tiny_config, tiny_config_file
from tests.tiny_classification import (
    TRAIN_COUNTS,
    classification_config,
    classification_config_file,
    register_colors,
    unregister,
)

PIXELS, IMAGES = "calibrations_pixels", "calibrations_images"
BATCHES = 2


class SecondStage:
    """A config and a checkpoint whose calibration has moved away from the identity."""

    def __init__(self, folder, name, configured, config_file, options):
        self.options = ["DATASETS.TRAIN", (name,), "DATASETS.TEST", (), *options]
        self.config_file, self.weights = config_file, folder / "model_final.pth"
        self.cfg = configured(folder, self.options)
        torch.manual_seed(0)
        model = Trainer.build_model(self.cfg)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "calibration." in name:
                    parameter.add_(torch.randn_like(parameter))
        torch.save({"model": model.state_dict(), "iteration": 9}, self.weights)
        self.state = model.state_dict()


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_stripes(PIXELS, folder / "data")
        head = ["MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead"]
        # Four by four cells.
        options = [*head, "MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHead", "MODEL.TIMM.OUTPUT_STRIDE", 8]
        yield SecondStage(folder, PIXELS, tiny_config, tiny_config_file(folder), options)
    DatasetCatalog.remove(PIXELS)
    MetadataCatalog.remove(PIXELS)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_colors(IMAGES, folder / "data")
        options = ["MODEL.META_ARCHITECTURE", "DisAlignImageClassifier"]
        yield SecondStage(
            folder, IMAGES, classification_config, classification_config_file(folder), options
        )
    unregister(IMAGES)


def plot(stage, output):
    given = ["--config-file", str(stage.config_file), "--weights", str(stage.weights)]
    given += ["--output", str(output), "--batches", str(BATCHES)]
    plot_calibration.main([*given, *map(str, stage.options)])
    return json.loads((output / "calibration.json").read_text())


def test_sigma_of_images(images, monkeypatch):
    """By hand: the sigmoid of the linear layer, on what enters the classifier."""
    model = load_model(images.cfg, str(images.weights))
    seen, features = [], model.features

    def record(batch):
        seen.append((features(batch), [item["label"] for item in batch]))
        return seen[-1][0]

    monkeypatch.setattr(model, "features", record)
    [found] = sigma_by_group(model, images.cfg, BATCHES)
    assert len(seen) == BATCHES and model.recorded is None
    weight = images.state["calibration.confidence_layer.weight"][0].double()
    bias = images.state["calibration.confidence_layer.bias"].double()
    expected = torch.cat([(x.double() @ weight + bias).sigmoid() for x, _ in seen])
    # Up to 8 images of a class: all are few-shot.
    assert list(found) == ["few"]
    np.testing.assert_allclose(found["few"], expected.numpy(), atol=1e-5)


def test_values_of_images(images, tmp_path):
    [values] = plot(images, tmp_path)["stages"]
    assert [row["image_count"] for row in values["classes"]] == list(TRAIN_COUNTS)
    assert [row["alpha"] for row in values["classes"]] == images.state["calibration.alpha"].tolist()
    assert [row["beta"] for row in values["classes"]] == images.state["calibration.beta"].tolist()
    assert values["sigma"]["few"]["samples"] == BATCHES * 4
    assert values["learned"] == {"alpha": True, "beta": True, "sigma": True}


def test_sigma_of_pixels(pixels, monkeypatch):
    """Cells of the feature map, by the class of the label map there; ignored ones are in none."""
    model = load_model(pixels.cfg, str(pixels.weights))
    head, seen = model.sem_seg_head, []
    log = head.log_calibration

    def record(classes):
        seen.append(classes)
        log(classes)

    monkeypatch.setattr(head, "log_calibration", record)
    entered = []
    head.base_head.predictor.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    [found] = sigma_by_group(model, pixels.cfg, BATCHES)
    assert len(entered) == len(seen) == BATCHES
    weight = pixels.state["sem_seg_head.calibration.confidence_layer.weight"][0].double()
    bias = pixels.state["sem_seg_head.calibration.confidence_layer.bias"].double()
    sigma = torch.cat(
        [(x.double().movedim(1, -1) @ weight + bias).sigmoid().flatten() for x in entered]
    ).numpy()
    classes = torch.cat([classes.flatten() for classes in seen]).numpy()
    assert set(classes) <= {0, 1, 2, 255}
    # Thirds by pixels.
    assert entered[0].shape[2:] == (4, 4) and sorted(found) == ["body", "head", "tail"]
    for name, [index] in head.class_groups.items():
        of_class = sigma[classes == index]
        assert (name in found) == (len(of_class) > 0)
        np.testing.assert_allclose(found.get(name, []), of_class, atol=1e-5)


def test_values_of_pixels(pixels, tmp_path, capsys):
    [values] = plot(pixels, tmp_path)["stages"]
    learned = pixels.state["sem_seg_head.calibration.alpha"].tolist()
    assert [row["alpha"] for row in values["classes"]] == learned
    counted = sum(row["pixel_count"] for row in values["classes"])
    # Four label maps of 32 x 32 without their last column.
    assert counted == 4 * 32 * 31
    assert {"stage", "pixels", "alpha"} <= set(capsys.readouterr().out.split())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".png", ".svg"]


def test_what_is_not_learned_is_said(images, tmp_path):
    """The title does not call it learned, and the checkpoint does not hold it."""
    switches = ["MODEL.DISALIGN.MAGNITUDE", False, "MODEL.DISALIGN.CONFIDENCE", False]
    stage = SecondStage(
        tmp_path,
        IMAGES,
        classification_config,
        images.config_file,
        [*images.options[4:], *switches],
    )
    [values] = plot(stage, tmp_path / "out")["stages"]
    assert values["learned"] == {"alpha": False, "beta": True, "sigma": False}
    assert [row["alpha"] for row in values["classes"]] == [1, 1, 1]
    assert set(values["sigma"]["few"]["quantiles"].values()) == {1}
    text = (tmp_path / "out" / "calibration.svg").read_text(encoding="utf-8")
    assert "alpha, not learned" in text and "learned beta" in text
    assert "sigma(x) of images, not learned" in text
