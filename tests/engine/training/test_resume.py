# SPDX-License-Identifier: Apache-2.0
"""A training that is killed and resumed ends at the bits of an unbroken one."""

import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.train_loop import HookBase

from benchmarks.run_differences import differences
from longtail.engine import Trainer
from longtail.utils.errors import ending_in_one_line
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import classification_config, register_colors
from tests.tiny_detection import detector_config, register_rectangles

SHORT = ["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 4]


class KillAt(HookBase):
    """What ends a run at an iteration.

    SIGKILL before it ("step") or while its checkpoint is written ("save"); another signal; a
    damaged image; a loss that is NaN.
    """

    def __init__(self, iteration: int, moment: str) -> None:
        self.iteration, self.moment = iteration, moment

    def damage(self) -> None:
        """Damage all images; the tests keep a copy."""
        dataset = DatasetCatalog.get(self.trainer.cfg.DATASETS.TRAIN[0])
        for record in dataset:
            Path(record["file_name"]).write_bytes(b"damaged")

    def before_step(self) -> None:
        if self.trainer.iter != self.iteration:
            return
        if self.moment in ("SIGTERM", "SIGUSR1"):
            os.kill(os.getpid(), signal.Signals[self.moment])
        if self.moment == "damaged image":
            self.damage()
        if self.moment == "lost worker":
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            time.sleep(10)  # torch notices at once
        if self.moment == "NaN":
            self.trainer.model.register_forward_hook(
                lambda model, inputs, losses: {k: v * float("nan") for k, v in losses.items()}
            )
        if self.moment in ("evaluation", "SIGTERM in the evaluation"):
            number = signal.SIGKILL if self.moment == "evaluation" else signal.SIGTERM
            self.trainer.test = lambda *_: os.kill(os.getpid(), number)
        if self.moment == "step":
            os.kill(os.getpid(), signal.SIGKILL)
        save = torch.save

        def killed(state, file, *arguments):
            file.write(b"half of a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = killed if self.moment == "save" else save


def _train(cfg: CfgNode, resume: bool, kill: tuple[int, str] | None) -> None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if kill is not None:
        trainer.register_hooks([KillAt(*kill)])
    with ending_in_one_line():
        trainer.train()


def train(cfg: CfgNode, *, resume: bool = False, kill: tuple[int, str] | None = None) -> int:
    """Train in a process of its own; returns its exit code."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(cfg, resume, kill))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture
def data(tmp_path):
    """Registered data sets of the three kinds."""
    names = [
        register_stripes("resume_stripes", tmp_path / "stripes", 6),
        register_rectangles("resume_rectangles", tmp_path / "rectangles", 6),
        register_colors("resume_colors", tmp_path / "colors"),
    ]
    yield dict(zip(("pixels", "boxes", "images"), names, strict=True))
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def sets(name: str) -> list:
    return ["DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,)]


def pixels(folder: Path, name: str, *keys: object) -> CfgNode:
    head = ["MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"]
    head += ["MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead"]
    return tiny_config(folder, [*SHORT, *sets(name), *head, *keys])


def boxes(folder: Path, name: str, *keys: object) -> CfgNode:
    return detector_config(folder, [*SHORT, *sets(name), *keys])


def images(folder: Path, name: str, *keys: object) -> CfgNode:
    return classification_config(folder, [*SHORT, *sets(name), *keys])


AMP = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE")
SAMPLER = "DATALOADER.SAMPLER_TRAIN"
CASES = {
    "pixels": (pixels, ()),
    "pixels, 2 workers, accumulation": (
        pixels,
        ("DATALOADER.NUM_WORKERS", 2, "SOLVER.ACCUMULATION_STEPS", 2),
    ),
    "boxes, repeat factors": (boxes, (SAMPLER, "RepeatFactorTrainingSampler")),
    "boxes, bfloat16": (boxes, (*AMP, "bfloat16")),
    "images, class-balanced, Seesaw, 1 worker": (
        images,
        (
            *("DATALOADER.NUM_WORKERS", 1, SAMPLER, "ClassBalancedTrainingSampler"),
            *("MODEL.CLASSIFIER.LOSS", "seesaw"),
        ),
    ),
    "images, float16": (images, (*AMP, "float16")),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_where_an_unbroken_one_does(tmp_path, data, case):
    build, keys = CASES[case]
    name = data[build.__name__]
    whole, broken = (tmp_path / "whole", tmp_path / "broken")
    for folder in (whole, broken):
        folder.mkdir()
    assert train(build(whole, name, *keys)) == 0
    cfg = build(broken, name, *keys)
    # While the second checkpoint is written, then right after an evaluation.
    assert train(cfg, kill=(3, "save")) == -signal.SIGKILL
    assert train(cfg, resume=True, kill=(4, "step")) == -signal.SIGKILL
    assert train(cfg, resume=True) == 0
    assert differences(whole / "output", broken / "output") == []


@pytest.mark.parametrize(
    ("moment", "code", "last"),
    [
        *(("SIGTERM", 143, 3), ("SIGUSR1", 143, 3)),
        *(("damaged image", 143, 2), ("lost worker", 143, 2), ("NaN", 143, 2)),
    ],
)
def test_a_run_that_ends_early_leaves_a_checkpoint(tmp_path, data, moment, code, last):
    """A signal lets the iteration end, a failure leaves the one before; --resume is exact."""
    folders = [tmp_path / "whole", tmp_path / "ended"]
    for folder in folders:
        folder.mkdir()
    never = ["SOLVER.CHECKPOINT_PERIOD", 1000]
    never += ["DATALOADER.NUM_WORKERS", 1] if moment == "lost worker" else []
    cfgs = [pixels(folder, data["pixels"], *never) for folder in folders]
    assert train(cfgs[0]) == 0
    kept = {p: p.read_bytes() for p in (tmp_path / "stripes" / "images").iterdir()}
    assert train(cfgs[1], kill=(3, moment)) == code
    written = [path.name for path in (folders[1] / "output").glob("model_*.pth")]
    assert written == [f"model_{last:07d}.pth"]
    for path, content in kept.items():
        path.write_bytes(content)
    assert train(cfgs[1], resume=True) == 0
    assert differences(*(folder / "output" for folder in folders)) == []


def test_a_run_that_is_killed_in_its_last_evaluation(tmp_path, data):
    """Resumed there is nothing to train; its last line has the number of an unbroken run's."""
    cfg = pixels(tmp_path, data["pixels"])
    assert train(cfg) == 0
    metrics = Path(cfg.OUTPUT_DIR) / "metrics.json"
    lines = metrics.read_text().splitlines(keepends=True)
    numbers = [json.loads(line)["iteration"] for line in lines]
    # 6 iterations: an evaluation after 4, the last iteration, the evaluation at the end.
    assert numbers == [3, 5, 6]
    metrics.write_text("".join(lines[:-1]))
    assert train(cfg, resume=True) == 0
    resumed = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [record["iteration"] for record in resumed] == numbers
    assert resumed[-1] == json.loads(lines[-1])


@pytest.mark.parametrize("last", [1, 5])
def test_a_signal_does_not_wait_for_an_evaluation(tmp_path, data, last, capfd):
    """After iteration 1, and the one at the end, where the final checkpoint is written already."""
    for name in ("whole", "ended"):
        (tmp_path / name).mkdir()
    keys = ("SOLVER.CHECKPOINT_PERIOD", 1000, "TEST.EVAL_PERIOD", 2 if last == 1 else 0)
    cfgs = [pixels(tmp_path / name, data["pixels"], *keys) for name in ("whole", "ended")]
    assert train(cfgs[0]) == 0
    assert train(cfgs[1], kill=(last, "SIGTERM in the evaluation")) == 143
    assert f"SIGTERM: stopped after iteration {last}" in capfd.readouterr().err
    written = [path.name for path in Path(cfgs[1].OUTPUT_DIR).glob("model_*.pth")]
    assert written == ["model_0000001.pth" if last == 1 else "model_final.pth"]
    assert train(cfgs[1], resume=True) == 0
    assert differences(*(Path(cfg.OUTPUT_DIR) for cfg in cfgs)) == []


def test_the_best_is_of_the_iteration_that_was_evaluated(tmp_path, data):
    """Also if the run was killed between the checkpoint and the evaluation."""
    keys = ["SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 2]
    keys += ["SOLVER.BEST_CHECKPOINT_METRIC", "sem_seg/mIoU"]
    states = []
    for name, kills in (("whole", []), ("broken", [(1, "evaluation")])):
        (tmp_path / name).mkdir()
        cfg = pixels(tmp_path / name, data["pixels"], *keys)
        for kill in kills:
            assert train(cfg, kill=kill) == -signal.SIGKILL
        assert train(cfg, resume=bool(kills)) == 0
        best = Path(cfg.OUTPUT_DIR) / "model_best.pth"
        states.append(torch.load(best, weights_only=True)["model"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_another_number_of_processes_is_said(tmp_path, data, caplog):
    cfg = pixels(tmp_path, data["pixels"])
    state = Trainer(cfg)._trainer.state_dict()
    trainer = Trainer(cfg)._trainer
    trainer.load_state_dict(state)
    assert "processes" not in caplog.text
    trainer.load_state_dict({**state, "num_processes": 4})
    assert "4 processes" in caplog.text and "not in every bit" in caplog.text


def test_the_newest_and_the_best_are_kept(tmp_path, data):
    keys = ("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 2, "TEST.EVAL_PERIOD", 2)
    cfg = pixels(tmp_path, data["pixels"], *keys, "SOLVER.BEST_CHECKPOINT_METRIC", "sem_seg/mIoU")
    assert train(cfg) == 0
    written = sorted(path.name for path in Path(cfg.OUTPUT_DIR).glob("model_*.pth"))
    # Of 6 iterations, the last of which is model_final.pth.
    expected = ["model_0000003.pth", "model_0000004.pth", "model_best.pth", "model_final.pth"]
    assert written == expected
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    values = [r["sem_seg/mIoU"] for r in map(json.loads, lines) if "sem_seg/mIoU" in r]
    model = Trainer.build_model(cfg)
    state = torch.load(Path(cfg.OUTPUT_DIR) / "model_best.pth", weights_only=True)["model"]
    model.load_state_dict(state)
    assert Trainer.test(cfg, model)["sem_seg"]["mIoU"] == pytest.approx(max(values), abs=1e-9)


def test_workers_change_nothing_and_the_seed_does(tmp_path, data):
    folders = []
    for number, keys in enumerate([("DATALOADER.NUM_WORKERS", 2), ("SEED", 1), ("SEED", 5)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert train(pixels(folder, data["pixels"], *keys)) == 0
        folders.append(folder / "output")
    assert differences(*folders[:2]) == []
    # What is compared is not the same in any two runs.
    assert differences(*folders[1:]) != []


def test_a_position_is_reached_without_reading(tmp_path, data):
    """A resumed loader asks for the records of the next batch, and for no others."""
    cfg = images(tmp_path, data["images"])
    loader = Trainer.build_train_loader(cfg)
    loader.seed(3)
    seen = [[item["image_id"] for item in batch] for batch in itertools.islice(loader, 12)]
    resumed = Trainer.build_train_loader(cfg)
    half = Trainer.build_train_loader(cfg)
    half.seed(3)
    for _ in itertools.islice(half, 7):
        pass
    resumed.load_state_dict(half.state_dict())
    read = []
    mapper = resumed._dataset.mapper
    resumed._dataset.mapper = lambda record: read.append(record["image_id"]) or mapper(record)
    batch = next(iter(resumed))
    assert [item["image_id"] for item in batch] == seen[7] == read
