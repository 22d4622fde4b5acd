# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that cannot be written, and what fails after the step of an iteration."""

import errno
import logging
import os
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from benchmarks.run_differences import differences
from longtail.engine import Trainer
from longtail.engine.run import run_process
from longtail.utils.errors import StoppedError
from tests.commands.test_train import command_line
from tests.messages import assert_names, raises_naming
from tests.tiny import register_stripes, tiny_config, tiny_config_file

ITERATIONS = 6


@pytest.fixture
def keys(tmp_path, kept_logging):
    name = register_stripes("full_disk_stripes", tmp_path / "stripes", 6)
    yield [
        *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", 1),
        *("DATASETS.TRAIN", (name,), "DATASETS.TEST", (), "TEST.EVAL_PERIOD", 0),
    ]
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def fill_disk(monkeypatch, *times: int) -> None:
    """Let the writes with these numbers fail: of checkpoints after iteration 0, 1, ..."""
    save, count = torch.save, iter(range(100))

    def fails(value, file):
        if next(count) in times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(value, file)

    monkeypatch.setattr(torch, "save", fails)


def written(cfg) -> list[str]:
    return sorted(path.name for path in Path(cfg.OUTPUT_DIR).iterdir() if "model_" in path.name)


def fit(cfg, resume=False):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()


def run(folder, keys, output, **options):
    """What ``longtail train`` does; without the traceback of detectron2's log."""
    pairs = [str(item) for item in [*keys, "OUTPUT_DIR", output]]
    run_process(command_line(tiny_config_file(folder), *pairs, **options))


def test_one_checkpoint_that_cannot_be_written_is_told_and_the_training_goes_on(
    tmp_path, keys, monkeypatch, caplog
):
    cfg = tiny_config(tmp_path, keys)
    # Not two in a row.
    fill_disk(monkeypatch, 1, 3)
    with caplog.at_level(logging.WARNING):
        fit(cfg)
    numbers = [0, 2, 4]
    assert written(cfg) == [*(f"model_{n:07d}.pth" for n in numbers), "model_final.pth"]
    told = [r.getMessage() for r in caplog.records if "could not be written" in r.getMessage()]
    assert len(told) == 2
    assert_names(told[0], "iteration 1", "model_0000001.pth", "No space left on device")


def test_two_in_a_row_end_the_training_which_can_be_continued(tmp_path, keys, monkeypatch, capsys):
    cfg = tiny_config(tmp_path, keys)
    # The third is the one after the failure.
    fill_disk(monkeypatch, 1, 2, 3)
    with pytest.raises(SystemExit) as info:
        run(tmp_path, keys, cfg.OUTPUT_DIR)
    assert info.value.code == 143
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    (line,) = errors
    assert_names(line, "iteration 2", "model_0000002.pth", "No space left", "--resume")
    assert written(cfg) == ["model_0000000.pth"]
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000000.pth"
    monkeypatch.undo()
    run(tmp_path, keys, cfg.OUTPUT_DIR, resume=True)
    whole = tmp_path / "whole"
    run(tmp_path, keys, whole)
    assert differences(whole, Path(cfg.OUTPUT_DIR)) == []


def test_the_last_checkpoint_has_no_next_attempt(tmp_path, keys, monkeypatch):
    cfg = tiny_config(tmp_path, keys)
    fill_disk(monkeypatch, ITERATIONS - 1, ITERATIONS)
    with raises_naming(StoppedError, f"OUTPUT_DIR {cfg.OUTPUT_DIR}", "model_final.pth", "--resume"):
        fit(cfg)
    assert written(cfg)[-1] == f"model_{ITERATIONS - 2:07d}.pth"


def test_a_log_that_cannot_be_written_ends_it_too(tmp_path, keys, monkeypatch):
    cfg = tiny_config(tmp_path, keys)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(*_):
        raise full

    monkeypatch.setattr("longtail.engine.training.log.MetricsWriter.write", fails)
    with raises_naming(StoppedError, f"OUTPUT_DIR {cfg.OUTPUT_DIR}", "No space left on device"):
        fit(cfg)


def test_what_fails_after_a_step_leaves_that_iteration(tmp_path, keys, monkeypatch):
    """Not the one before, with the weights of the one after: the run would take a step twice."""
    keys = [*keys, "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 4]
    folders = [tmp_path / "whole", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
    cfgs = [tiny_config(folder, keys) for folder in folders]
    fit(cfgs[0])

    def fails(*_):
        raise ValueError("no evaluation")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "test", fails)
        with pytest.raises(StoppedError, match=r"no evaluation.* after iteration 3"):
            fit(cfgs[1])
    assert written(cfgs[1]) == ["model_0000003.pth"]
    fit(cfgs[1], resume=True)
    assert differences(*(Path(cfg.OUTPUT_DIR) for cfg in cfgs)) == []
