# SPDX-License-Identifier: Apache-2.0
"""Image classification as a user sees it: train_net.py to the end, or one line for bad input."""

import argparse
import json
import math

import pytest
import torch

from longtail.engine import Trainer
from longtail.engine.run import run_process
from tests.messages import raises_naming
from tests.tiny_classification import (
    TEST_COUNTS,
    classification_config,
    classification_config_file,
    register_colors,
    unregister,
)

TRAIN, TEST = "command_line_colors_train", "command_line_colors_test"
SECOND_STAGES = ("RetrainedImageClassifier", "ScaledImageClassifier", "DisAlignImageClassifier")
ARCHITECTURE = "MODEL.META_ARCHITECTURE"


pytestmark = pytest.mark.usefixtures("kept_logging")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with both data sets, which are registered."""
    folder = tmp_path_factory.mktemp("command_line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_colors(TRAIN, folder / "train")
        register_colors(TEST, folder / "test", TEST_COUNTS, seed=1, training_set=TRAIN)
        yield folder
    unregister(TRAIN, TEST)


def call(folder, name, *overrides, eval_only=False, resume=False):
    """Run train_net.py with overrides; the output folder."""
    names = ["DATASETS.TRAIN", f"('{TRAIN}',)", "DATASETS.TEST", f"('{TEST}',)"]
    run_process(
        argparse.Namespace(
            config_file=str(classification_config_file(folder)),
            opts=[*names, "OUTPUT_DIR", str(folder / name), *overrides],
            eval_only=eval_only,
            resume=resume,
        )
    )
    return folder / name


@pytest.fixture(scope="module")
def first(workplace):
    """The folder of a first stage, trained in mixed precision until it tells the colors apart."""
    return call(
        workplace,
        "first",
        *("SOLVER.MAX_ITER", "40", "SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", "0.01"),
        *("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"),
    )


def figures(folder):
    """The report without its time and config."""
    path = folder / "inference" / TEST / "classification_evaluation.json"
    report = json.loads(path.read_text())
    del report["provenance"]
    return report


def test_the_first_stage_learns(first):
    """By chance a third of the 9 images would be right."""
    report = figures(first)
    assert report["num_images"] == 9
    assert report["top1"] > 60
    assert report["groups"]["few"] == {"mean_acc": report["mean_acc"], "num_classes": 3}
    lines = [json.loads(line) for line in (first / "metrics.json").read_text().splitlines()]
    assert lines[-1]["classification/top1"] == pytest.approx(report["top1"])
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses[-1] < 0.7 * math.log(3)


@pytest.mark.parametrize("architecture", SECOND_STAGES)
def test_second_stages(workplace, first, architecture):
    weights = str(first / "model_final.pth")
    options = (ARCHITECTURE, architecture, "MODEL.WEIGHTS", weights)
    sampler = ("DATALOADER.SAMPLER_TRAIN", "ClassBalancedTrainingSampler")
    output = call(workplace, architecture, *options, *sampler, "SOLVER.BASE_LR", "0.5")
    frozen = torch.load(weights, weights_only=True)["model"]
    trained = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(trained[name], value) for name, value in frozen.items())
    assert trained.keys() > frozen.keys()
    assert "second stage: " in (output / "log.txt").read_text()
    # Resuming goes on where it ended.
    call(workplace, architecture, *options, *sampler, "SOLVER.MAX_ITER", "4", resume=True)
    assert "Starting training from iteration 3" in (output / "log.txt").read_text()
    evaluated = call(
        workplace,
        f"{architecture}_evaluated",
        *(ARCHITECTURE, architecture, "MODEL.WEIGHTS", str(output / "model_final.pth")),
        eval_only=True,
    )
    assert figures(evaluated) == figures(output)


def test_an_untrained_identity_has_the_first_stages_figures(workplace, first):
    weights = ("MODEL.WEIGHTS", str(first / "model_final.pth"))
    expected = figures(call(workplace, "again", *weights, eval_only=True))
    for architecture in ("ScaledImageClassifier", "DisAlignImageClassifier"):
        options = (ARCHITECTURE, architecture, *weights, "SOLVER.BASE_LR", "0.0")
        output = call(workplace, f"{architecture}_0", *options)
        assert figures(output) == expected == figures(first)


def failure(folder, name, *overrides, **options) -> str:
    with pytest.raises(SystemExit) as info:
        call(folder, name, *overrides, **options)
    message = info.value.code
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_another_number_of_classes(workplace):
    expected = "has 3 classes, but MODEL.CLASSIFIER.NUM_CLASSES is 4"
    for name, eval_only in (("trained", False), ("evaluated", True)):
        number = ("MODEL.CLASSIFIER.NUM_CLASSES", "4")
        assert expected in failure(workplace, name, *number, eval_only=eval_only)


def test_the_first_stages_folder_is_not_resumed(workplace, first):
    weights = ("MODEL.WEIGHTS", str(first / "model_final.pth"))
    options = (ARCHITECTURE, "ScaledImageClassifier", *weights)
    message = failure(workplace, "first", *options, resume=True)
    assert "holds a first stage, which a second one cannot resume" in message


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_a_broken_image(workplace, tmp_path, num_workers):
    name = register_colors("command_line_colors_broken", tmp_path / "broken")
    try:
        for path in (tmp_path / "broken").iterdir():
            path.write_bytes(path.read_bytes()[:100])
        names = ("DATASETS.TRAIN", f"('{name}',)", "DATALOADER.NUM_WORKERS", num_workers)
        message = failure(workplace, "broken_output", *names)
    finally:
        unregister(name)
    assert ".png cannot be read as an image" in message and "fetch it again" in message


def test_classes_without_images_are_named(workplace, caplog):
    register_colors("colors_of_two", workplace / "two", (3, 0, 2))
    try:
        call(workplace, "two", "DATASETS.TRAIN", "('colors_of_two',)", "DATASETS.TEST", "()")
    finally:
        unregister("colors_of_two")
    log = (workplace / "two" / "log.txt").read_text()
    assert "colors_of_two has no image of 1 of 3 classes (green): they cannot be learned" in log


def test_images_are_tested_in_batches_of_the_training(workplace):
    """One at a time, as detectron2's test loader has them, would starve a GPU: 4, 4 and 1."""
    cfg = classification_config(workplace, ["DATASETS.TEST", (TEST,)])
    assert [len(batch) for batch in Trainer.build_test_loader(cfg, TEST)] == [4, 4, 1]


def test_sets_of_other_classes_end_a_training_before_it_starts(workplace):
    with raises_naming(SystemExit, "error:", TRAIN, "3", "MODEL.CLASSIFIER.NUM_CLASSES", "5"):
        call(workplace, "five", "MODEL.CLASSIFIER.NUM_CLASSES", "5")
    assert not (workplace / "five" / "metrics.json").exists()
