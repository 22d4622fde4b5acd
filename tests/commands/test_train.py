# SPDX-License-Identifier: Apache-2.0
"""The entry point: one line for bad input, and runs from beginning to end."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from longtail.config import deployed_config, load_config
from longtail.data.datasets import datasets_root
from longtail.data.datasets.synthetic import register_synthetic
from longtail.data.synthetic import SyntheticConfig, write_dataset
from longtail.engine import Trainer
from longtail.engine.run import run_process
from tests.messages import assert_names, raises_naming
from tests.processes import heed_interrupts
from tests.tiny import tiny_config, tiny_config_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder of data sets with 6 + 2 generated scenes of 4 classes."""
    root = tmp_path_factory.mktemp("datasets")
    config = SyntheticConfig(
        num_classes=4,
        image_size=(48, 48),
        region_imbalance=2.0,
        pixel_imbalance=3.0,
        min_val_images=1,
    )
    write_dataset(root / "synthetic", 6, 2, config)
    return root


@pytest.fixture
def options(tmp_path):
    """Keys and values for a short training on the generated scenes."""
    return [
        *("DATASETS.TRAIN", "('synthetic_sem_seg_train',)"),
        *("DATASETS.TEST", "('synthetic_sem_seg_val',)"),
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4", "OUTPUT_DIR", str(tmp_path / "output")),
    ]


@pytest.fixture(autouse=True)
def one_process(kept_logging):
    """Tests register data sets for the whole process: take it back."""
    yield
    register_synthetic(datasets_root())


def command_line(config_file, *overrides, eval_only=False, resume=False):
    return argparse.Namespace(
        config_file=str(config_file), opts=list(overrides), eval_only=eval_only, resume=resume
    )


def failure(args) -> str:
    """The message of a run that fails, which is one line."""
    with pytest.raises(SystemExit) as info:
        run_process(args)
    message = info.value.code
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


BAD_FILES = {
    "unknown key": ("SOLVER: {MAXITER: 3}", ["SOLVER.MAXITER"]),
    "wrong type": ("SOLVER: {MAX_ITER: many}", ["SOLVER.MAX_ITER", "many", "int"]),
    "broken": ("SOLVER: [1,", ["bad.yaml", "line 2"]),
    "a list": ("- SOLVER", ["bad.yaml", "KEY: VALUE"]),
    "no base": ("_BASE_: nowhere.yaml", ["nowhere.yaml"]),
}


@pytest.mark.parametrize(("text", "parts"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_config_file(tmp_path, text, parts):
    path = tmp_path / "bad.yaml"
    path.write_text(("" if text.startswith("-") else "VERSION: 2\n") + text, encoding="utf-8")
    with raises_naming((ValueError, FileNotFoundError), *parts):
        load_config(str(path))
    assert_names(failure(command_line(path)), *parts)


def test_an_empty_config_file(tmp_path):
    path = tmp_path / "empty.yaml"
    path.touch()
    assert "empty file" in failure(command_line(path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAXITER", "3"], "Non-existent key: SOLVER.MAXITER"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER must be of the type int, such as "),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR must be of the type float, such as "),
        (["DATASETS.PROPOSAL_FILES_TRAIN", "a"], "type tuple, such as ('name',), got a"),
        (["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "3"], "such as (10.0, 10.0, 5.0, 5.0), got 3"),
        (["SOLVER.MAX_ITER"], "odd length"),
    ],
)
def test_bad_overrides(tmp_path, overrides, message):
    path = tiny_config_file(tmp_path)
    assert message in failure(command_line(path, *overrides))


def test_a_missing_config_file(tmp_path):
    path = tmp_path / "nowhere.yaml"
    assert failure(command_line(path)).startswith(f"error: the config file {path} does not exist")


@pytest.mark.parametrize("base", [False, True], ids=["itself", "its base"])
def test_a_config_with_code_is_refused(tmp_path, base):
    mark, path = tmp_path / "mark", tmp_path / "bad.yaml"
    path.write_text(
        f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {mark}']\n", encoding="utf-8"
    )
    if base:
        path = tmp_path / "derived.yaml"
        path.write_text("_BASE_: bad.yaml\n", encoding="utf-8")
    assert "python/object/apply" in failure(command_line(path))
    assert not mark.exists()


def test_a_machine_without_gpu_uses_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_config("").MODEL.DEVICE == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load_config("").MODEL.DEVICE == "cuda"
    assert load_config("", ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"


def test_deployed_config_has_no_branch(tmp_path):
    cfg = tiny_config(
        tmp_path,
        [
            *("MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"),
            *("MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead"),
            *("MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "balanced_softmax_pixel_prior"),
        ],
    )
    before = cfg.dump()
    deployed = deployed_config(cfg).MODEL.SEM_SEG_HEAD
    assert (deployed.NAME, deployed.PIXEL_LOSS) == ("FCNHead", "cross_entropy")
    assert cfg.dump() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATASETS.TRAIN", "('nowhere',)"], "nowhere' is not registered"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        # Before the training, not after it.
        (["DATASETS.TEST", "('nowhere',)"], "nowhere' is not registered"),
        (["TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 200.0, 1.0]]"], "TEST.EXPECTED_RESULTS"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth do not exist: set MODEL.WEIGHTS"),
        (["MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "lovasz"], "PIXEL_LOSS must be one of"),
        (["MODEL.SEM_SEG_HEAD.NAME", "FNCHead"], "near names: FCNHead"),
        (["TEST.SEM_SEG.MODE", "tiles"], "SEM_SEG.MODE must be one of"),
        (["SOLVER.ACCUMULATION_STEPS", "3"], "divide SOLVER.IMS_PER_BATCH: got 3, 1 proc"),
        (["SOLVER.NO_DECAY_PARAMS", "['gama']"], "SOLVER.NO_DECAY_PARAMS: 'gama'"),
        (["TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[]"], "SCALES must be positive numbers"),
        (["MODEL.TIMM.NAME", "resnet51"], "has no model 'resnet51'"),
        (["SOLVER.OPTIMIZER", "Adam"], "must be 'SGD' or 'AdamW'"),
        (["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "int8"], "AMP.DTYPE must be one of"),
    ],
)
def test_bad_values_end_in_one_line(tmp_path, datasets, options, overrides, message):
    register_synthetic(str(datasets))
    message_seen = failure(command_line(tiny_config_file(tmp_path), *options, *overrides))
    assert message in message_seen
    # Whoever debugs finds the traceback in a file; results that are not as expected are no error,
    # and what the config alone shows is said before there is a folder.
    if "EXPECTED_RESULTS" in overrides[0] or "is empty" in message:
        return
    assert "Traceback" in (tmp_path / "output" / "traceback_rank0.txt").read_text()


def evaluation_failure(tmp_path, options, *overrides, keep=lambda key: True) -> str:
    """The message of --eval-only with a random model's weights."""
    config_file = tiny_config_file(tmp_path)
    cfg = deployed_config(load_config(str(config_file), list(options)))
    state = Trainer.build_model(cfg).state_dict()
    weights = str(tmp_path / "weights.pth")
    torch.save({"model": {key: value for key, value in state.items() if keep(key)}}, weights)
    overrides = [*options, "MODEL.WEIGHTS", weights, *overrides]
    return failure(command_line(config_file, *overrides, eval_only=True))


def test_evaluation_needs_a_registered_data_set(tmp_path, options):
    assert "nowhere" in evaluation_failure(tmp_path, options, "DATASETS.TEST", "('nowhere',)")
    assert "DATASETS.TEST is empty" in evaluation_failure(tmp_path, options, "DATASETS.TEST", "()")


def test_evaluation_needs_all_weights(tmp_path, options):
    # What is registered where nothing was generated.
    options = [*options, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "24"]
    message = evaluation_failure(
        tmp_path, options, keep=lambda key: key != "sem_seg_head.predictor.bias"
    )
    assert "the weights lack 1 of the model's tensors" in message and "predictor.bias" in message
    assert "no weights to evaluate" in evaluation_failure(tmp_path, options, "MODEL.WEIGHTS", "")


def test_evaluation_with_another_number_of_classes(tmp_path, options):
    """Of the data, at once; and of the weights, with both numbers."""
    more = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "7"]
    assert "classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 7" in evaluation_failure(
        tmp_path, options, *more, keep=lambda key: True
    )


def test_evaluation_names_the_head_that_is_wrapped(tmp_path, options):
    branch = ["MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"]
    branch += ["MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FNCHead"]
    message = evaluation_failure(tmp_path, options, *branch)
    assert "MODEL.REGION_REBALANCE.BASE_HEAD_NAME: nothing is registered as 'FNCHead'" in message


@pytest.fixture
def damaged(datasets, tmp_path):
    """A copy of the data sets in which no training image can be read."""
    shutil.copytree(datasets / "synthetic", tmp_path / "synthetic")
    for image in (tmp_path / "synthetic" / "images" / "training").iterdir():
        image.write_bytes(image.read_bytes()[:100])
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_ends_training_in_one_line(tmp_path, options, damaged, workers):
    register_synthetic(str(damaged))
    overrides = [*options, "DATALOADER.NUM_WORKERS", str(workers)]
    message = failure(command_line(tiny_config_file(tmp_path), *overrides))
    assert "cannot be read as an image" in message
    assert message.startswith(f"error: {damaged}")


def test_a_loss_that_is_not_finite(tmp_path, datasets, options):
    register_synthetic(str(datasets))
    # The smallest numbers that divide pixels: they become infinite.
    overrides = [*options, "MODEL.PIXEL_STD", "[1e-38, 1e-38, 1e-38]"]
    message = failure(command_line(tiny_config_file(tmp_path), *overrides))
    assert "Loss became infinite or NaN at iteration" in message


def run_program(*command, datasets):
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(datasets),
        "LONGTAIL_CACHE": str(datasets / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_two_processes_train_and_evaluate(tmp_path, datasets, options):
    """torchrun on CPUs with the branch, its statistics and the evaluator; then --eval-only."""
    config_file = tiny_config_file(tmp_path)
    branch = [
        *("MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"),
        *("MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead"),
    ]
    arguments = ["train_net.py", "--config-file", str(config_file)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = run_program(*torchrun, *arguments, *options, *branch, datasets=datasets)
    output = tmp_path / "output"
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert (output / "model_final.pth").is_file()
    assert '"loss_region"' in (output / "metrics.json").read_text()
    report = yaml.safe_load(
        (output / "inference" / "synthetic_sem_seg_val" / "sem_seg_evaluation.json").read_text()
    )
    assert report
    # The console shows what is trained; the environment, the config and the model are in the log.
    log = (output / "log.txt").read_text()
    assert "\x1b" not in log
    for text, shown in (
        ("Running with full config", False),
        ("LongTailSemanticSegmentor(\n", False),
        ("Environment info", False),
        ("of them are trained", True),
        ("iter: ", True),
        ("mIoU", True),
    ):
        assert text in log and (text in result.stdout) == shown, text

    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    result = run_program(*arguments, "--eval-only", *options, *branch, *weights, datasets=datasets)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "mIoU" in result.stdout


def test_two_processes_fail_in_one_line(tmp_path, damaged, options):
    """Each reads damaged images; torchrun's own summary names no reason."""
    arguments = ["train_net.py", "--config-file", str(tiny_config_file(tmp_path))]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = run_program(*torchrun, *arguments, *options, datasets=damaged)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith(f"error: {damaged}"), result.stderr


def test_a_mistake_in_the_code_is_one_line_and_a_file(tmp_path, datasets, options, monkeypatch):
    register_synthetic(str(datasets))
    monkeypatch.setattr(Trainer, "build_optimizer", classmethod(lambda *_: 1 / 0))
    line = failure(command_line(tiny_config_file(tmp_path), *options))
    path = tmp_path / "output" / "traceback_rank0.txt"
    assert_names(line, "ZeroDivisionError", str(path))
    assert "build_optimizer" in path.read_text()


@pytest.mark.parametrize(
    ("number", "code", "last"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "SIGTERM: stopped after iteration"),
    ],
)
def test_signals_are_one_line(tmp_path, datasets, options, number, code, last):
    command = ["train_net.py", "--config-file", str(tiny_config_file(tmp_path)), *options]
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(datasets),
        "LONGTAIL_CACHE": str(datasets / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command += ["SOLVER.MAX_ITER", "100000", "DATALOADER.NUM_WORKERS", "1"]
    process = subprocess.Popen(
        [sys.executable, "-u", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        for line in process.stdout:
            if "iter: 19" in line:
                break
        # As a terminal does, or a scheduler: to the workers, too.
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert errors.splitlines()[-1].startswith(last) and "Traceback" not in errors


def test_the_program_fails_in_one_line(tmp_path, damaged, options):
    arguments = ["train_net.py", "--config-file", str(tiny_config_file(tmp_path))]
    result = run_program(*arguments, *options, datasets=damaged)
    assert result.returncode == 1 and "Traceback" not in result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert line == result.stderr.strip().splitlines()[-1] and line.startswith(f"error: {damaged}")
