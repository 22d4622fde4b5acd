# SPDX-License-Identifier: Apache-2.0
"""longtail plot-calibration on the second stages of tiny detectors."""

import json
import re

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from disalign import roi_heads
from disalign.analysis import calibrations
from disalign.commands import plot_calibration
from PIL import Image

from longtail.engine import Trainer
from longtail.engine.checkpoint import load_tensors
from tests.disalign.detectors import disturb
from tests.tiny_detection import detector_config
from tests.tiny_roi_cache import second_stage

# Instances in the training set.
COUNTS = {"red": 6, "green": 3, "blue": 1}
# Not those of LVIS, which six images would make all rare: see groups_by_name.
GROUPS = {"red": "frequent", "green": "common", "blue": "rare"}
ROIS = 16  # an image


class Stage:
    """A second stage that has moved away from the identity, and the command on it."""

    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        self.weights = folder / "stage2.pth"
        cfg = self.config()
        self.model = Trainer.build_model(cfg)
        self.model.load_state_dict(load_tensors(cfg.MODEL.WEIGHTS)["model"], strict=False)
        torch.save({"model": disturb(self.model).state_dict()}, self.weights)

    def config(self, *overrides):
        return detector_config(self.folder, [*self.options, *overrides])

    def run(self, output, *arguments, weights=None, overrides=()):
        config_file = str(self.folder / "detector.yaml")
        self.config()
        given = ["--config-file", config_file, "--weights", str(weights or self.weights)]
        options = [str(option) for option in (*self.options, *overrides)]
        plot_calibration.main([*given, "--output", str(output), *arguments, *options])

    def fail(self, output, *arguments, **keywords):
        """The one line of a command that has to fail, with nothing written."""
        with pytest.raises(SystemExit) as caught:
            self.run(output, *arguments, **keywords)
        message = str(caught.value)
        assert message.startswith("error: ") and "\n" not in message
        assert not output.is_dir() or not list(output.iterdir())
        return message


@pytest.fixture(scope="module", params=[False, True], ids=["mask", "cascade"])
def stage(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plot_calibration")
    with second_stage(folder, cascade=request.param) as options:
        yield Stage(folder, options)


@pytest.fixture
def groups_by_name(monkeypatch):
    """Every group has a class, however few images there are."""
    groups = {"rare": [2], "common": [1], "frequent": [0]}
    monkeypatch.setattr(roi_heads, "frequency_groups", lambda counts, bounds: groups)


def predictors(model):
    heads = model.roi_heads.box_predictor
    return list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]


def test_values_and_picture(stage, tmp_path, groups_by_name, capsys):
    stage.run(tmp_path, "--batches", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "calibration.json",
        "calibration.png",
        "calibration.svg",
    ]
    written = json.loads((tmp_path / "calibration.json").read_text())
    assert written["batches"] == 2
    learned = predictors(stage.model)
    assert len(written["stages"]) == len(learned)
    for values, predictor in zip(written["stages"], learned, strict=True):
        for index, (name, count) in enumerate(COUNTS.items()):
            assert values["classes"][index] == {
                "name": name,
                "group": GROUPS[name],
                "instance_count": count,
                "alpha": predictor.calibration.alpha[index].item(),
                "beta": predictor.calibration.beta[index].item(),
            }
    # Two batches of two images. Later stages of a cascade drop boxes without area.
    rois = [part["samples"] for part in written["stages"][0]["sigma"].values()]
    assert sum(rois) == 2 * 2 * ROIS
    # One row of panels for each stage.
    width, height = Image.open(tmp_path / "calibration.png").size
    assert height / width == pytest.approx(3.8 * len(learned) / (3 * 4.4), rel=0.01)
    table = capsys.readouterr().out
    first = [line.split() for line in table.splitlines() if line.strip().startswith("0 ")]
    beta = learned[0].calibration.beta
    assert ["0", "rare", "1", f"{learned[0].calibration.alpha[2]:.3f}", f"{beta[2]:.3f}"] in [
        row[:5] for row in first
    ]


def test_sigma_is_that_of_the_rois(stage, monkeypatch, groups_by_name):
    cfg = stage.config()
    model = calibrations.load_model(cfg, str(stage.weights))
    seen = []
    sample = model.sample_rois

    def record(batch):
        seen.append(sample(batch))
        return seen[-1]

    monkeypatch.setattr(model, "sample_rois", record)
    found = calibrations.sigma_by_group(model, cfg, 2)
    assert len(seen) == 2
    group_of_label = ["frequent", "common", "rare", "background"]
    for number, (predictor, of_stage) in enumerate(zip(predictors(model), found, strict=True)):
        layer = predictor.calibration.confidence_layer
        weight, bias = layer.weight[0].detach().double(), layer.bias.detach().double()
        expected = {name: [] for name in group_of_label}
        for rois in seen:
            for feature, label in zip(*rois[number], strict=True):
                z = float(weight @ feature.double() + bias)
                expected[group_of_label[label]].append(1 / (1 + np.exp(-z)))
        assert set(of_stage) == {name for name, values in expected.items() if values}
        assert len(of_stage["background"]) > 2
        for name, values in of_stage.items():
            np.testing.assert_allclose(values, expected[name], atol=1e-6)
            quantiles = calibrations.summary(values)["quantiles"]
            assert list(quantiles) == ["5", "25", "50", "75", "95"]
            assert quantiles["50"] == pytest.approx(np.median(values), abs=1e-6)


def test_the_model_samples_as_in_training_and_does_not_change(stage):
    model = calibrations.load_model(stage.config(), str(stage.weights))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calibrations.sigma_by_group(model, stage.config(), 1)
    assert all(predictor.recorded is None for predictor in predictors(model))
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())
    assert not any(module.training for module in model.backbone.modules())
    assert model.training and model.roi_heads.training
    # It is a model that can be trained as it is.
    with EventStorage():
        assert set(model.sample_rois([stage_input(stage)])[0].classes.tolist()) <= {0, 1, 2, 3}


def copied(weights, folder):
    path = folder / "alone.pth"
    path.write_bytes(weights.read_bytes())
    return path


def test_history(stage, tmp_path, groups_by_name):
    """Of every checkpoint beside the weights, by iteration, with the start that all have."""
    names = [f"{name}.calibration" for name in calibrations.calibrated_classifiers(stage.model)]
    for number in (3, 12, 7):
        state = stage.model.state_dict()
        for name in names:
            state[f"{name}.alpha"] = torch.tensor([1.0, 2.0, 3.0]) + number
            state[f"{name}.beta"] = torch.tensor([0.5, 0.0, -0.5]) * number
        final = {"iteration": number} if number == 12 else {}
        name = "model_final.pth" if final else f"model_{number:07}.pth"
        torch.save({"model": state, **final}, tmp_path / name)
    stage.run(tmp_path, "--batches", "1", "--history", weights=tmp_path / "model_0000007.pth")
    written = json.loads((tmp_path / "calibration_history.json").read_text())
    assert written["iterations"] == [0, 4, 8, 13]
    assert written["classes"] == list(COUNTS)
    assert len(written["stages"]) == len(names)
    for values in written["stages"]:
        assert values["alpha"] == [[1, 1, 1], [4, 5, 6], [8, 9, 10], [13, 14, 15]]
        assert values["beta"][2] == [3.5, 0, -3.5]
    assert (tmp_path / "calibration_history.png").is_file()


def test_numbers_of_the_axes_are_plain(stage, tmp_path, groups_by_name):
    """No offset such as +1e0 for an alpha near 1, and no power of ten for counts from 1 to 6."""
    state = stage.model.state_dict()
    for name in calibrations.calibrated_classifiers(stage.model):
        state[f"{name}.calibration.alpha"] = torch.tensor([1.0, 1.0001, 1.0002])
        state[f"{name}.calibration.beta"] = torch.tensor([0.0, 1e-6, 2e-6])
    torch.save({"model": state}, tmp_path / "near.pth")
    stage.run(tmp_path, "--batches", "1", weights=tmp_path / "near.pth")
    text = (tmp_path / "calibration.svg").read_text(encoding="utf-8")
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert "1.000100" in labels
    assert "training instances" in labels and "1" in labels and "5" in labels
    assert not [label for label in labels if re.search(r"\de[+\u2212-]|10\^", label)]
    assert "mathdefault" not in text


def stage_input(stage):
    return next(iter(Trainer.build_train_loader(stage.config())))[0]


def test_bad_input_is_said_in_one_line(stage, tmp_path):
    out = tmp_path / "out"
    first_stage = stage.config().MODEL.WEIGHTS
    message = stage.fail(out, weights=first_stage)
    assert f"{first_stage} have no calibration" in message and "model_final.pth" in message
    absent = tmp_path / "absent.pth"
    assert f"weights {absent} do not exist" in stage.fail(out, weights=absent)
    message = stage.fail(out, overrides=["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"])
    assert "detector.yaml is not a second stage" in message and "GeneralizedRCNN" in message
    assert "DisAlignRCNN" in message and "DisAlignSemSegHead" in message
    message = stage.fail(out, "--history", weights=copied(stage.weights, tmp_path))
    assert "--history" in message and "0 checkpoints" in message
    assert "--batches must be 1 or more, got 0" in stage.fail(out, "--batches", "0")
    taken = tmp_path / "taken"
    taken.write_text("a file", encoding="utf-8")
    assert f"--output {taken} is a file" in stage.fail(taken)
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(stage.weights.read_bytes()[:1000])
    assert f"weights {damaged} are damaged" in stage.fail(out, weights=damaged)
