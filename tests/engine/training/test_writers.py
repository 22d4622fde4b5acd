# SPDX-License-Identifier: Apache-2.0
"""Optional writers: each iteration once across interruptions, pictures, histograms, messages."""

import importlib.machinery
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from longtail.engine import Trainer
from longtail.engine.training import writers
from longtail.engine.training.log import Writers
from longtail.engine.training.writers import check_writers
from tests.messages import raises_naming
from tests.tiny import register_stripes, tiny_config

DATA = "writers_stripes"
LAST = 5


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """DisAlign on pixels, with all of TensorBoard's."""
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    register_stripes(DATA, tmp_path / "data", 3)
    sets = ["DATASETS.TRAIN", (DATA,), "DATASETS.TEST", (DATA,)]
    first = Trainer(tiny_config(tmp_path, ["MODEL.SEM_SEG_HEAD.NAME", "FCNHead", *sets]))
    first.checkpointer.save_dir = str(tmp_path)
    first.checkpointer.save("first", iteration=0)
    options = [
        *(*sets, "MODEL.WEIGHTS", str(tmp_path / "first.pth")),
        *("MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead"),
        *("MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHead", "SOLVER.MAX_ITER", LAST + 1),
        *("SOLVER.CHECKPOINT_PERIOD", 3, "TEST.EVAL_PERIOD", 4, "LOG.TENSORBOARD.IMAGES", 2),
        *("LOG.TENSORBOARD.HISTOGRAMS", True, "LOG.TENSORBOARD.HPARAMS", True),
    ]
    yield tiny_config(tmp_path, options)
    DatasetCatalog.remove(DATA)
    MetadataCatalog.remove(DATA)


def train(cfg, monkeypatch, *, end_in=None):
    """Train from the last checkpoint; ``end_in`` fails as a lost machine would, after writing."""
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    log = next(hook for hook in trainer._hooks if isinstance(hook, Writers))
    log._period = 1
    if end_in is not None:
        step = trainer.run_step

        def run_step():
            if trainer.iter == end_in:
                raise KeyboardInterrupt
            step()

        trainer.run_step = run_step
        # Nothing is saved on the way out.
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        return
    trainer.train()


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_tensorboard_has_each_iteration_once(cfg, monkeypatch):
    train(cfg, monkeypatch, end_in=5)
    # The checkpoint is of iteration 2; 3 and 4 have been written and are trained again.
    train(cfg, monkeypatch)
    log = read(cfg.OUTPUT_DIR)
    for tag in ("total_loss", "lr"):
        assert [event.step for event in log.Scalars(tag)] == list(range(LAST + 1))
    tags = log.Tags()
    assert {"sem_seg/mIoU", "sem_seg/mIoU-tail"} <= {t.replace(" ", "-") for t in tags["scalars"]}
    assert {f"{DATA}/0", f"{DATA}/1"} == set(tags["images"])
    steps = [event.step for event in log.Images(f"{DATA}/0")]
    assert steps == sorted(set(steps)) and len(steps) == 2
    assert log.Images(f"{DATA}/0")[0].width > 2 * 32
    assert {f"disalign/{name}" for name in ("alpha", "beta", "sigma")} <= set(tags["histograms"])
    assert log.Histograms("disalign/alpha")[-1].histogram_value.num == 3
    assert any("hparams" in name for name in log.summary_metadata)


def stand_in(monkeypatch, name: str, calls: list) -> None:
    """A package that records what is sent; it knows no network."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="stand-in")
    if name == "wandb":

        def init(**options):
            calls.append(("begin", options["id"]))
            assert options["resume"] == "allow"
            assert options["config"]["SOLVER.MAX_ITER"] == LAST + 1
            return types.SimpleNamespace(
                log=lambda values, step: calls.append((step, values)),
                finish=lambda: calls.append(("end", "")),
            )

        module.init = init
    else:

        def start_run(run_id=None, run_name=None):
            calls.append(("begin", run_id or "new"))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="new"))

        module.start_run = start_run
        module.set_experiment = lambda project: calls.append(("experiment", project))
        module.log_params = lambda values: calls.append(("parameters", values))
        module.log_metrics = lambda values, step: calls.append((step, values))
        module.end_run = lambda: calls.append(("end", ""))
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_continue_one_run(cfg, monkeypatch, name):
    calls: list = []
    stand_in(monkeypatch, name, calls)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.LOG.WRITERS = [name]
    train(cfg, monkeypatch, end_in=5)
    train(cfg, monkeypatch)
    begun = [run for what, run in calls if what == "begin"]
    assert len(begun) == 2 and len(set(begun)) == 1
    sent = Counter((step, key) for step, values in calls if isinstance(step, int) for key in values)
    assert set(sent.values()) == {1}
    assert sorted(s for s, key in sent if key == "total_loss") == list(range(LAST + 1))
    assert (LAST + 1, "sem_seg/mIoU") in sent or (LAST, "sem_seg/mIoU") in sent
    assert calls[-1][0] == "end"
    # Parameters of MLflow cannot be written twice.
    keys = Counter(key for what, values in calls if what == "parameters" for key in values)
    assert set(keys.values()) == ({1} if name == "mlflow" else set())
    assert not list(Path(cfg.OUTPUT_DIR).glob("events*"))


def test_a_service_that_is_lost_costs_no_training(cfg, monkeypatch):
    calls: list = []
    stand_in(monkeypatch, "mlflow", calls)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.LOG.WRITERS = ["mlflow"]

    def log_metrics(values, step):
        calls.append((step, values))
        raise ConnectionError("gone")

    mlflow = sys.modules["mlflow"]
    monkeypatch.setattr(mlflow, "log_metrics", log_metrics)
    train(cfg, monkeypatch)
    assert [step for step, _ in calls if isinstance(step, int)] == [0]
    assert (Path(cfg.OUTPUT_DIR) / "model_final.pth").is_file()

    # One that is not there at all is said before the first iteration.
    def refuse(project):
        raise ConnectionError("no route")

    monkeypatch.setattr(mlflow, "set_experiment", refuse)
    cfg.OUTPUT_DIR += "_2"
    with raises_naming(ValueError, "LOG.WRITERS", "mlflow", "no route"):
        train(cfg, monkeypatch)
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))


def test_what_is_missing_is_said_first(cfg, tmp_path, monkeypatch):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.LOG.WRITERS = ["tensorboards"]
    with raises_naming(ValueError, "LOG.WRITERS", "tensorboard", "tensorboards"):
        check_writers(cfg)
    cfg.LOG.WRITERS = ["wandb"]
    # As where the package is not installed, and then where its runs have left a folder of its name.
    finder = importlib.machinery.PathFinder
    monkeypatch.setattr(writers, "find_spec", lambda name: finder.find_spec(name, [str(tmp_path)]))
    for folder in (None, tmp_path / "wandb"):
        if folder is not None:
            folder.mkdir()
        with raises_naming(ValueError, "LOG.WRITERS", "wandb", "detectron2-longtail[wandb]"):
            check_writers(cfg)
