# SPDX-License-Identifier: Apache-2.0
"""A run in shards that is stopped and resumed ends at the bits of an unbroken one."""

import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine.train_loop import HookBase

from longtail.engine import Trainer
from longtail.engine.checkpoint import Checkpointer, CompleteCheckpointer
from longtail.engine.run_folder import checkpoints, damage, run_folder
from longtail.engine.shards import ShardReader
from longtail.engine.training import sharded_checkpoint
from longtail.engine.training.sharding import whole_state
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.tiny_classification import classification_config, register_colors, unregister

# Trainings in two processes: a minute of processor time.
pytestmark = pytest.mark.slow


def config(folder: Path, name: str, *keys: object) -> CfgNode:
    sets = ("DATASETS.TRAIN", ("kept_colors",), "DATASETS.TEST", ("kept_test",))
    keys = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 3, *keys)
    # As random as a run's own seed for each process; batch statistics differ by process.
    optimizer = ("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 1e-3)
    cfg = classification_config(folder, [*sets, *optimizer, *keys])
    cfg.OUTPUT_DIR = str(folder / name)
    return cfg


def register(folder: Path) -> None:
    os.environ["LONGTAIL_CACHE"] = str(folder / "cache")
    register_colors("kept_colors", folder / "colors")
    # An odd number: one process tests more images than the other.
    register_colors("kept_test", folder / "test", (2, 2, 1), training_set="kept_colors")


class SigtermAt(HookBase):
    """SIGTERM for one of the processes."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def train(cfg: CfgNode, rank: int, *, resume: bool = False, stop_at: int | None = None) -> Trainer:
    torch.manual_seed(rank)
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if rank == 1 and stop_at is not None:
        trainer.register_hooks([SigtermAt(stop_at)])
    try:
        trainer.train()
    except SystemExit as error:
        assert error.code == 143 and stop_at is not None
    return trainer


def train_whole_and_in_parts(rank: int, folder: Path) -> None:
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    own = folder / str(rank)
    own.mkdir()
    register(own)
    fsdp = ("SOLVER.FSDP.ENABLED", True)

    def cfg(name: str, *keys: object) -> CfgNode:
        made = config(own, name, *fsdp, *keys)
        made.OUTPUT_DIR = str(shared / name)
        return made

    whole = train(cfg("whole"), rank)
    # In the first iteration after the checkpoint of its period, which it does not reach.
    train(cfg("broken"), rank, stop_at=2)
    assert checkpoints(shared / "broken")[0].name == "model_0000002.sharded"
    resumed = train(cfg("broken"), rank, resume=True)
    assert resumed.start_iter == 3
    started = Trainer(cfg("started", "MODEL.WEIGHTS", str(shared / "whole" / "model_final.pth")))
    started.resume_or_load(resume=False)
    found = {
        "moments": [_moments(trainer) for trainer in (whole, resumed)],
        "started": [whole_state(trainer.model) for trainer in (whole, started)],
        "error": _of_another_model(cfg),
    }
    # A disk that is full once: no half of a checkpoint gets the name of one.
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).suffix == ".sharded" and "0000001" in Path(target).name:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    sharded_checkpoint.os.replace = full
    train(cfg("full"), rank)
    found["full"] = sorted(path.name for path in (shared / "full").glob("model_*"))
    torch.save(found, folder / f"{rank}.pth")


def _moments(trainer: Trainer) -> list[torch.Tensor]:
    state = trainer.optimizer.state
    of_all = [state[p] for group in trainer.optimizer.param_groups for p in group["params"]]
    tensors = [moments[key] for moments in of_all for key in ("exp_avg", "exp_avg_sq", "step")]
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


def _of_another_model(cfg) -> str:
    other = cfg("broken", "MODEL.TIMM.NAME", "test_convnext")
    try:
        Trainer(other).resume_or_load(resume=True)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    run_in_two_processes(train_whole_and_in_parts, folder)
    return folder


def results(folder: Path) -> list[dict]:
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


def test_a_stopped_run_ends_where_an_unbroken_one_does(trained):
    for found in results(trained):
        whole, resumed = found["moments"]
        assert len(whole) == len(resumed) > 0
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    final = [trained / "shared" / name / "model_final.pth" for name in ("whole", "broken")]
    whole, resumed = (torch.load(path, weights_only=True)["model"] for path in final)
    assert list(whole) == list(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_final_weights_are_those_of_any_run(trained, tmp_path):
    whole, started = results(trained)[0]["started"]
    assert all(torch.equal(whole[name], started[name]) for name in whole)
    register(tmp_path)
    try:
        cfg = config(tmp_path, "one")
        model = Trainer.build_model(cfg)
        path = trained / "shared" / "whole" / "model_final.pth"
        CompleteCheckpointer(model).load(str(path))
        state = model.state_dict()
        assert list(state) == list(whole)
        assert all(torch.equal(state[name], whole[name]) for name in whole)
    finally:
        unregister("kept_colors", "kept_test")


def test_a_checkpoint_that_cannot_be_written_gets_no_name(trained):
    names = ["model_0000003.sharded", "model_final.pth"]
    assert [found["full"] for found in results(trained)] == [names] * 2
    left = [path for path in (trained / "shared" / "full").iterdir() if path.suffix == ".tmp"]
    assert len(left) == 1
    with run_folder(trained / "shared" / "full", resume=True):
        assert not left[0].exists()


def test_shards_of_another_model(trained):
    for found in results(trained):
        assert "another model" in found["error"] and "--resume" in found["error"]
        assert "\n" not in found["error"]


def test_shards_are_for_sharded_runs(trained):
    path = trained / "shared" / "whole" / "model_0000003.sharded"
    with raises_naming(ValueError, "SOLVER.FSDP.ENABLED", path.name, "model_final.pth"):
        Checkpointer(torch.nn.Linear(1, 1)).load(str(path))


def test_damaged_shards_are_seen(trained, tmp_path):
    good = trained / "shared" / "whole" / "model_0000003.sharded"
    assert damage(good) is None
    short = tmp_path / "model_0000003.sharded"
    shutil.copytree(good, short)
    part = max(short.glob("*.distcp"), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[:-1])
    assert part.name in damage(short)
    part.unlink()
    assert part.name in damage(short)


class Evil:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["EVIL"])),)


def test_metadata_run_no_code(trained, tmp_path, monkeypatch):
    folder = tmp_path / "model_0000003.sharded"
    shutil.copytree(trained / "shared" / "whole" / folder.name, folder)
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    assert "mkdir" in damage(folder)
    with raises_naming(pickle.UnpicklingError, "posix.mkdir"):
        ShardReader(folder).read_metadata()
    assert not (tmp_path / "ran").exists()
