# SPDX-License-Identifier: Apache-2.0
"""Several models trained at once: the losses of the Trainer, its folders, and the packed images."""

import importlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine.train_loop import HookBase
from detectron2.utils.env import seed_all_rng
from PIL import Image

from longtail.config import load_config
from longtail.engine import Trainer
from longtail.engine.checkpoint import Checkpointer
from longtail.jobs.state import is_done
from tests.tiny_classification import CLASSES, register_colors, unregister

TRAIN, TEST = "tiny_device_train", "tiny_device_test"
COUNTS = (12, 7, 2)
OPTIONS = [
    *("DATASETS.TRAIN", f"('{TRAIN}',)", "DATASETS.TEST", f"('{TEST}',)", "MODEL.DEVICE", "cpu"),
    *("MODEL.CLASSIFIER.NUM_CLASSES", 3, "MODEL.CIFAR_RESNET.DEPTH", 8, "SEED", 3),
    *("SOLVER.IMS_PER_BATCH", 6, "SOLVER.MAX_ITER", 7, "SOLVER.STEPS", "(5,)"),
    *("SOLVER.WARMUP_ITERS", 3, "SOLVER.CHECKPOINT_PERIOD", 100),
]


@pytest.fixture
def load(monkeypatch):
    """A function that imports a script, which finds the others as if it were run."""

    def get(name: str) -> ModuleType:
        for path in ("common", "table_results", "merging", "rows", "device.several_models", name):
            module = importlib.import_module(f"benchmarks.{path}")
            monkeypatch.setitem(sys.modules, path.rpartition(".")[2], module)
        return module

    return get


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colors")
    register_colors(TRAIN, folder / "train", COUNTS)
    register_colors(TEST, folder / "test", (3, 3, 3), seed=1, training_set=TRAIN)
    yield folder
    unregister(TRAIN, TEST)


class Losses(HookBase):
    def __init__(self):
        self.found = []

    def after_step(self):
        self.found.append(self.trainer.storage.latest()["total_loss"][0])


def of_the_trainer(cfg):
    seed_all_rng(cfg.SEED)
    trainer, losses = Trainer(cfg), Losses()
    # Without an evaluation at the end.
    trainer._hooks = []
    trainer.register_hooks([losses, *[h for h in trainer.build_hooks() if "LRS" in str(type(h))]])
    trainer.resume_or_load(resume=False)
    trainer.train()
    return losses.found, trainer.model


def config(name, folder, *options):
    chosen = [*OPTIONS, "OUTPUT_DIR", str(folder / name), *options]
    return load_config(f"CIFAR100-LT/{name}.yaml", chosen)


def trained_together(module, cfgs):
    images = module.Images.read(cfgs[0], TRAIN, is_train=True)
    feeds = {cfg.DATALOADER.SAMPLER_TRAIN: module.Feed.draw(cfg, images.records) for cfg in cfgs}
    learners = [module.Learner(c, feeds[c.DATALOADER.SAMPLER_TRAIN], CLASSES) for c in cfgs]
    module.Group(learners, images).train()
    return learners


def test_first_stages_make_the_trainers_steps(load, colors, tmp_path):
    module = load("device.several_models")
    names = ("linear", "class_balanced", "seesaw", "ldam_drw")
    cfgs = [config(name, tmp_path) for name in names]
    learners = trained_together(module, cfgs)
    for name, cfg, learner in zip(names, cfgs, learners, strict=True):
        expected, model = of_the_trainer(cfg)
        assert len(expected) == 7 and len(set(expected)) == 7
        # Weights of classes come in at iteration 6 of 7: ceil(0.8 x 7).
        assert learner.changes() == ([6] if name == "ldam_drw" else [])
        torch.testing.assert_close(
            learner.losses, torch.tensor(expected), rtol=2e-5, atol=1e-6, msg=name
        )
        mine = learner.model.state_dict()
        for key, value in model.state_dict().items():
            torch.testing.assert_close(mine[key], value, rtol=1e-3, atol=1e-5, msg=key)


def test_second_stages_make_the_trainers_steps(load, colors, tmp_path):
    module = load("device.several_models")
    first = trained_together(module, [config("linear", tmp_path)])[0]
    (tmp_path / "linear").mkdir()
    Checkpointer(first.model, str(tmp_path / "linear")).save_weights("model_final")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "linear" / "model_final.pth")]
    names = ("linear_crt", "linear_lws", "linear_disalign")
    cfgs = [config(name, tmp_path, *weights) for name in names]
    for name, cfg, learner in zip(names, cfgs, trained_together(module, cfgs), strict=True):
        expected, _ = of_the_trainer(cfg)
        torch.testing.assert_close(
            learner.losses, torch.tensor(expected), rtol=2e-5, atol=1e-6, msg=name
        )
        for key, value in first.model.state_dict().items():
            assert torch.equal(learner.model.state_dict()[key], value), key


def test_layouts_and_mixed_precision_are_kept(load, colors, tmp_path):
    module = load("device.several_models")
    plain, last = (
        trained_together(module, [config("linear", tmp_path, "MODEL.CHANNELS_LAST", layout)])[0]
        for layout in (False, True)
    )
    torch.testing.assert_close(plain.losses, last.losses, rtol=1e-4, atol=1e-5)
    cfg = config("linear", tmp_path, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16")
    half = trained_together(module, [cfg])[0].losses
    assert not torch.equal(half, plain.losses)
    torch.testing.assert_close(half, plain.losses, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("key", "value"),
    [("SEED", -1), ("SOLVER.OPTIMIZER", "AdamW"), ("INPUT.CLASSIFICATION.PAD", 0)],
)
def test_other_recipes_are_refused(load, colors, tmp_path, key, value):
    module = load("device.several_models")
    with pytest.raises(ValueError, match=key):
        module.Learner(config("linear", tmp_path, key, value), None, CLASSES)


def study_of(module, folder, methods, seeds, *more):
    pairs = [
        str(item)
        for key, value in zip(OPTIONS[::2], OPTIONS[1::2], strict=True)
        if key != "SEED"
        for item in (key, value)
    ]
    command = ["--output", str(folder), "--seeds", seeds, "--methods", *methods]
    return module.Study(module.parse_arguments([*command, "--options", *pairs, *more]))


def test_all_stages_of_a_table(load, colors, tmp_path, monkeypatch):
    module = load("device.cifar100_lt")
    methods = ["linear", "cosine", "linear_crt", "cosine_disalign", "linear_ncm"]
    monkeypatch.setattr(sys, "argv", ["cifar100_lt.py"])
    study = study_of(module, tmp_path, methods, "2")
    study.run()
    assert len(study.plan.jobs) == 10 and all(is_done(job) for job in study.plan.jobs)
    written = json.loads((tmp_path / "cifar100_lt.json").read_text())["figures"]
    rows = written["tables"]["CIFAR100-LT"]["rows"]
    assert written["seeds"] == [0, 1] and set(rows) == set(methods)
    assert rows["linear_ncm"]["continues"] == "linear"
    assert all(len(row["runs"]) == 2 for row in rows.values())
    folder = tmp_path / "CIFAR100-LT" / "linear_crt" / "seed1"
    line = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    assert line["iteration"] == 6 and (folder / "model_final.pth").is_file()
    # The evaluation says what longtail train would have said of the same weights.
    cfg = module.config_of(next(job for job in study.plan.jobs if job.folder == folder))
    model = Trainer.build_model(cfg)
    Checkpointer(model).load(str(folder / "model_final.pth"))
    again = Trainer.test(cfg, model)["classification"]["mean_acc"]
    assert again == pytest.approx(rows["linear_crt"]["runs"][1]["average"])


def test_the_bound_is_left_out(load, capsys):
    """It is trained on all images of CIFAR-100, which are not here."""
    module = load("device.cifar100_lt")
    rows = module.on_the_same_images(module.folder_rows("CIFAR100-LT", None, "linear"))
    assert "linear_bound" not in rows and len(rows) == 15
    assert capsys.readouterr().out == "left out, since trained on other images: linear_bound\n"


def test_what_diverges_stops_nothing_else(load, colors, tmp_path, monkeypatch, capsys):
    module = load("device.cifar100_lt")
    monkeypatch.setattr(sys, "argv", ["cifar100_lt.py"])
    learner = module.Learner

    def spoilt(cfg, *others):
        made = learner(cfg, *others)
        if cfg.OUTPUT_DIR.endswith("cosine/seed0") and len(made.losses) == 7:
            made.rates = torch.full_like(made.rates, torch.inf)
        return made

    monkeypatch.setattr(module, "Learner", spoilt)
    methods = ["linear", "cosine", "cosine_disalign", "linear_ncm"]
    study_of(module, tmp_path, methods, "1").run()
    written = json.loads((tmp_path / "cifar100_lt.json").read_text())["figures"]
    assert set(written["tables"]["CIFAR100-LT"]["rows"]) == {"linear", "linear_ncm"}
    assert "cosine/seed0: the loss of iteration 1 is not finite" in capsys.readouterr().out


def test_rows_that_fit_when_a_seed_does_not(load, colors, tmp_path):
    module = load("device.cifar100_lt")
    study = object.__new__(module.Study)
    study.left = lambda: module.AFTER_FIRST_STAGES + 25
    rows = module.folder_rows("CIFAR100-LT", ["linear", "focal", "linear_ncm", "seesaw"], "linear")
    jobs = list(module.make_plan(rows.values(), [0], tmp_path).jobs)
    names = [job.name.split("/")[1] for job in study.that_fit(jobs, 10.0)]
    assert names == ["linear", "focal", "linear_ncm"]
    with pytest.raises(ValueError, match="--seconds"):
        study.that_fit(jobs, 30.0)


def test_mosaics_hold_every_pixel(load, colors, tmp_path):
    module = load("device.pack_cifar100")
    module.pack(tmp_path, {"train": TRAIN})
    index = json.loads((tmp_path / "index.json").read_text())
    assert index == {"classes": list(CLASSES), "train_counts": list(COUNTS)}
    of_green = [r["file_name"] for r in DatasetCatalog.get(TRAIN) if r["label"] == 1]
    found = np.asarray(Image.open(tmp_path / "train" / "001_green.webp").convert("RGB"))
    assert found.shape == (32, 25 * 32, 3)
    for place, file in enumerate(of_green):
        tile = found[:, 32 * place : 32 * (place + 1)]
        assert np.array_equal(tile, np.asarray(Image.open(file)))
    assert not found[:, 32 * len(of_green) :].any()
