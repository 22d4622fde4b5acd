"""A training that is killed and resumed ends at the bits of an unbroken one."""

import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.train_loop import HookBase

from benchmarks.run_differences import differences
from longtail.engine import Trainer
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import classification_config, register_colors
from tests.tiny_detection import detector_config, register_rectangles

SHORT = ["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 4]


class KillAt(HookBase):
    """SIGKILL to its own process, before an iteration or while its checkpoint is written."""

    def __init__(self, iteration: int, moment: str) -> None:
        self.iteration, self.moment = iteration, moment

    def before_step(self) -> None:
        if self.trainer.iter != self.iteration:
            return
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
