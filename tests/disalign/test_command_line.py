# SPDX-License-Identifier: Apache-2.0
"""The second stage as a user sees it: train_net.py to the end, or one line for bad input."""

import argparse
import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.config import load_config
from longtail.data.datasets.lvis import register_lvis_instances
from longtail.engine import Trainer
from longtail.engine.run import run_process
from tests.tiny_detection import CLASSES, DETECTOR, write_rectangles

pytestmark = pytest.mark.usefixtures("kept_logging")


@pytest.fixture
def run(tmp_path, rectangles):
    """A function that runs train_net.py with overrides and gives its output folder."""
    config_file = tmp_path / "detector.yaml"
    config_file.write_text("VERSION: 2\n" + DETECTOR, encoding="utf-8")

    def call(name, *overrides, eval_only=False, resume=False):
        output = tmp_path / name
        names = ["DATASETS.TRAIN", f"('{rectangles}',)", "DATASETS.TEST", "()"]
        run_process(
            argparse.Namespace(
                config_file=str(config_file),
                opts=[*names, "OUTPUT_DIR", str(output), *overrides],
                eval_only=eval_only,
                resume=resume,
            )
        )
        return output

    return call


SECOND = ("MODEL.META_ARCHITECTURE", "DisAlignRCNN")


def failure(tmp_path, run, *overrides, **options) -> str:
    """The message of a second stage that fails, which is one line and leaves no model behind."""
    with pytest.raises(SystemExit) as info:
        run("failed", *SECOND, *overrides, **options)
    message = info.value.code
    assert message.startswith("error: ") and "\n" not in message
    # Neither a model nor a figure is left behind.
    written = {path.name for path in (tmp_path / "failed").iterdir()}
    written = {name for name in written if not name.startswith("events.out.tfevents")}
    assert written <= {".lock", "log.txt", "config.yaml", "traceback_rank0.txt", "metrics.json"}
    if "metrics.json" in written:
        assert (tmp_path / "failed" / "metrics.json").read_text() == ""
    return message


def test_both_stages_and_resuming(run, rectangles):
    weights = str(run("first", "SOLVER.MAX_ITER", "1") / "model_final.pth")
    second = (*SECOND, "MODEL.WEIGHTS", weights, "SOLVER.CHECKPOINT_PERIOD", "1")
    output = run("second", *second, "SOLVER.MAX_ITER", "1")
    log = (output / "log.txt").read_text()
    first = torch.load(weights, weights_only=True)["model"]
    trained = torch.load(output / "model_final.pth", weights_only=True)["model"]
    own = {name for name in trained if ".calibration." in name}
    assert trained.keys() - first.keys() == own and len(own) == 4
    assert all(torch.equal(trained[name], value) for name, value in first.items())
    # 3 alpha, 3 beta, 12 weights and a bias of the confidence.
    model = Trainer.build_model(load_config(str(output / "config.yaml")))
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"second stage: 19 parameters are trained, {total - 19:,} are frozen" in log
    assert all(name in log for name in own)

    output = run("second", *second, "SOLVER.MAX_ITER", "3", resume=True)
    log = (output / "log.txt").read_text()
    assert "Starting training from iteration 1" in log
    resumed = torch.load(output / "model_final.pth", weights_only=True)
    assert resumed["iteration"] == 2
    changed = {n for n, v in trained.items() if not torch.equal(v, resumed["model"][n])}
    assert changed == own

    run(
        "evaluated",
        *(*SECOND, "MODEL.WEIGHTS", str(output / "model_final.pth")),
        *("DATASETS.TEST", f"('{rectangles}',)", "DATASETS.TRAIN", "('nowhere',)"),
        eval_only=True,
    )


@pytest.mark.parametrize("name", ["RepeatFactorTrainingSampler", "ClassBalancedTrainingSampler"])
def test_both_stages_with_other_samplers(run, name):
    options = ("SOLVER.MAX_ITER", "1", "DATALOADER.SAMPLER_TRAIN", name)
    weights = str(run("first", *options) / "model_final.pth")
    output = run("second", *SECOND, "MODEL.WEIGHTS", weights, *options)
    assert (output / "model_final.pth").is_file()


def test_evaluating_with_the_other_stages_config_does_not_go_unnoticed(run, rectangles):
    test = ("DATASETS.TEST", f"('{rectangles}',)")
    first = str(run("first", "SOLVER.MAX_ITER", "1") / "model_final.pth")
    with pytest.raises(SystemExit, match=r"lack 4 of .*the weights that this config has"):
        run("second", *SECOND, *test, "MODEL.WEIGHTS", first, eval_only=True)
    options = (*SECOND, "MODEL.WEIGHTS", first, "SOLVER.MAX_ITER", "1")
    second = str(run("second", *options) / "model_final.pth")
    output = run("evaluated", *test, "MODEL.WEIGHTS", second, eval_only=True)
    assert (
        "the weights have 4 tensors that this model does not use"
        in (output / "log.txt").read_text()
    )


def test_multi_scale_testing_is_refused_before_the_training(tmp_path, run):
    with pytest.raises(SystemExit, match=r"TEST\.AUG\.ENABLED: .* not for GeneralizedRCNN"):
        run("refused", "TEST.AUG.ENABLED", "True")
    assert not (tmp_path / "refused").exists()


def test_no_weights(tmp_path, run):
    message = failure(tmp_path, run)
    assert "a second stage starts from the first stage's checkpoint: set MODEL.WEIGHTS" in message
    assert "nowhere.pth do not exist" in failure(tmp_path, run, "MODEL.WEIGHTS", "nowhere.pth")


def write(path, state) -> tuple[str, str]:
    torch.save({"model": state}, path)
    return "MODEL.WEIGHTS", str(path)


def test_weights_of_another_model(tmp_path, run, first_stage):
    state = torch.load(first_stage("mask-linear"), weights_only=True)["model"]
    path = tmp_path / "weights.pth"
    # Another class count.
    score, boxes = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
    other = {**state, f"{score}.weight": torch.zeros(81, 12), f"{boxes}.bias": torch.zeros(320)}
    message = failure(tmp_path, run, *write(path, other))
    assert f"{score}.weight has shape (81, 12), the model (4, 12)" in message
    assert f"{boxes}.bias has shape (320,), the model (12,)" in message and "missing" not in message
    # A tensor behind all that may be missing, in a second stage without confidence.
    calibration, gone = "roi_heads.box_predictor.calibration", "roi_heads.mask_head.predictor.bias"
    part = {f"{calibration}.alpha": torch.ones(3), f"{calibration}.beta": torch.zeros(3)}
    given = {name: value for name, value in state.items() if name != gone}
    message = failure(tmp_path, run, *write(path, {**given, **part}))
    assert f"{calibration}.confidence_layer.weight is missing; {gone} is missing." in message
    assert "calibration.alpha" not in message
    # The other classifier.
    message = failure(tmp_path, run, "MODEL.WEIGHTS", first_stage("mask-cosine"))
    assert f": {score}.bias is missing; {score}.scale is unexpected." in message


def test_evaluation_needs_the_calibration(tmp_path, run, first_stage, rectangles):
    weights = ("MODEL.WEIGHTS", first_stage("mask-linear"))
    test = ("DATASETS.TEST", f"('{rectangles}',)")
    message = failure(tmp_path, run, *weights, *test, eval_only=True)
    assert "the weights lack 4 of the model's tensors" in message and "calibration" in message


def test_a_category_without_instances(tmp_path, run, first_stage):
    """One image, in which red alone is annotated."""
    path = write_rectangles(tmp_path / "data", 1)
    content = json.loads(path.read_text())
    assert {a["category_id"] for a in content["annotations"]} == {1}
    register_lvis_instances("one_rectangle", path, path.parent)
    try:
        options = (
            *("MODEL.WEIGHTS", first_stage("mask-linear"), "DATASETS.TRAIN", "('one_rectangle',)"),
            *("SOLVER.MAX_ITER", "1"),
        )
        message = failure(tmp_path, run, *options)
        assert f"class 1 ({CLASSES[1]}) and 1 more does not occur" in message
        assert "CLAMP_ZERO_COUNTS True" in message
        output = run("clamped", *SECOND, *options, "MODEL.DISALIGN.CLAMP_ZERO_COUNTS", "True")
        assert (output / "model_final.pth").is_file()
    finally:
        DatasetCatalog.remove("one_rectangle")
        MetadataCatalog.remove("one_rectangle")


def test_a_training_set_with_other_classes(tmp_path, run, first_stage):
    options = ("MODEL.WEIGHTS", first_stage("mask-linear"), "MODEL.ROI_HEADS.NUM_CLASSES", "4")
    message = failure(tmp_path, run, *options)
    assert "disalign_rectangles has 3 classes, but MODEL.ROI_HEADS.NUM_CLASSES is 4" in message
