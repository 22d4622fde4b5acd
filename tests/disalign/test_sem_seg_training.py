# SPDX-License-Identifier: Apache-2.0
"""The second stage of semantic segmentation through the trainer: first stage to evaluation."""

import argparse
import json
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from torch.nn.modules.batchnorm import _BatchNorm

from longtail.engine import SemanticSegmentorWithTTA, Trainer
from longtail.engine.checkpoint import Checkpointer
from longtail.engine.inference.build import build_inference
from longtail.engine.run import run_process
from longtail.engine.training.stages import trained_modules
from tests.disalign.detectors import disturb, start, tensors
from tests.tiny import SIZE, register_stripes, tiny_config, tiny_config_file

NAME = "disalign_stripes"
HEAD, BRANCH = "MODEL.SEM_SEG_HEAD.NAME", "MODEL.REGION_REBALANCE.BASE_HEAD_NAME"
# Names of the first stage's head, and of the one that it wraps.
KINDS = {"plain": ("FCNHead", "FCNHead"), "regions": ("RegionRebalanceHead", "FCNHead")}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """A registered data set of four striped images."""
    folder = tmp_path_factory.mktemp("stripes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        yield register_stripes(NAME, folder)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def options(kind: str, weights: str = "") -> list:
    """Of a first stage; with its weights of a second one."""
    head, base = KINDS[kind]
    second = [HEAD, "DisAlignSemSegHead", "MODEL.DISALIGN.BASE_HEAD_NAME", head]
    second += ["MODEL.WEIGHTS", weights]
    return [*(second if weights else [HEAD, head]), BRANCH, base]


@pytest.fixture(scope="module")
def first_stage(stripes, tmp_path_factory):
    """A function that gives the checkpoint of a first stage, random but no start."""
    folder = tmp_path_factory.mktemp("first_stages")

    def get(kind):
        if not (folder / f"{kind}.pth").exists():
            names = ["DATASETS.TRAIN", (stripes,), "DATASETS.TEST", (stripes,)]
            torch.manual_seed(7)
            model = Trainer.build_model(tiny_config(folder, [*names, *options(kind)])).train()
            with torch.no_grad():
                for _ in range(5):
                    model(make_inputs())
                for name, parameter in model.named_parameters():
                    if name.endswith("predictor.weight"):
                        parameter.normal_()
            Checkpointer(model, str(folder)).save(kind)
        return str(folder / f"{kind}.pth")

    return get


@pytest.fixture
def configure(tmp_path, stripes, first_stage):
    """A function that gives the config of a first or a second stage, with values replaced."""

    def get(kind, stage, *overrides):
        names = ["DATASETS.TRAIN", (stripes,), "DATASETS.TEST", (stripes,)]
        weights = first_stage(kind)
        chosen = options(kind, weights) if stage == 2 else options(kind)
        return tiny_config(tmp_path, [*names, *chosen, "MODEL.WEIGHTS", weights, *overrides])

    return get


def make_inputs(count: int = 4) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count, SIZE, SIZE), generator=generator)
    return [{"image": i, "sem_seg": t} for i, t in zip(images, labels, strict=True)]


TESTING = {
    "whole": [],
    "slide": [
        *("TEST.SEM_SEG.MODE", "slide", "TEST.SEM_SEG.CROP_SIZE", [24, 24]),
        *("TEST.SEM_SEG.STRIDE", [16, 16]),
    ],
    "multi-scale": ["TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", [0.5, 1.0], "TEST.AUG.FLIP", True],
}


@pytest.mark.parametrize("mode", TESTING)
@each_kind
def test_every_mode_of_testing_begins_at_the_first_stage(configure, stripes, kind, mode):
    def outputs(stage, change=lambda model: None):
        cfg = configure(kind, stage, *TESTING[mode])
        model = start(cfg).model.eval()
        change(model)
        tested = build_inference(cfg, model)
        if mode == "multi-scale":
            tested = SemanticSegmentorWithTTA(cfg, tested)
        (loader,) = (Trainer.build_test_loader(cfg, name) for name in cfg.DATASETS.TEST)
        with torch.no_grad():
            return [tested(batch)[0]["sem_seg"] for batch in loader]

    expected, given, moved = outputs(1), outputs(2), outputs(2, disturb)
    assert len(expected) == 4
    for one, other, third in zip(expected, given, moved, strict=True):
        assert torch.equal(one, other) and not torch.equal(one, third)


@each_kind
def test_training_changes_the_calibration_and_nothing_else(configure, kind):
    trainer = start(configure(kind, 2, "SOLVER.BASE_LR", 1.0, "TEST.EVAL_PERIOD", 1))
    assert any(isinstance(m, _BatchNorm) for m in trainer.model.sem_seg_head.modules())
    before = tensors(trainer.model)
    trainer.train()
    after = tensors(trainer.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    prefix = "sem_seg_head.calibration"
    assert changed == {
        f"{prefix}.{name}"
        for name in ("alpha", "beta", "confidence_layer.weight", "confidence_layer.bias")
    }
    assert list(trained_modules(trainer.model)) == [prefix]
    # Not even a gradient was computed for the others.
    assert {n for n, p in trainer.model.named_parameters() if p.grad is not None} == changed


def test_alpha_and_beta_do_not_decay(configure):
    trainer = start(configure("plain", 2, "SOLVER.WEIGHT_DECAY", 0.1))
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    decays = {
        names[p].rpartition("calibration.")[2]: group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }
    assert decays.pop("alpha") == decays.pop("beta") == 0.0
    assert decays["confidence_layer.weight"] == 0.1 and len(decays) == 2


def calibration_after(cfg) -> dict[str, torch.Tensor]:
    seed_all_rng(1)
    trainer = start(cfg)
    trainer.test = lambda cfg, model: {}
    trainer.train()
    return dict(trainer.model.sem_seg_head.calibration.named_parameters())


@pytest.mark.parametrize("weighted_mean", [True, False])
def test_a_batch_in_parts_is_the_batch(configure, weighted_mean):
    options = ("MODEL.DISALIGN.WEIGHTED_MEAN", weighted_mean, "SOLVER.BASE_LR", 5.0)
    whole = calibration_after(configure("plain", 2, *options))
    parts = calibration_after(configure("plain", 2, *options, "SOLVER.ACCUMULATION_STEPS", 4))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=2e-6)
    assert (whole["alpha"] - 1).abs().max() > 0.01


FASTER = {
    "mixed precision": ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"],
    "memory format": ["MODEL.CHANNELS_LAST", True],
    "compiled": ["MODEL.COMPILE", True],
}


@pytest.mark.parametrize("overrides", FASTER.values(), ids=FASTER)
@each_kind
def test_options_of_speed(configure, monkeypatch, kind, overrides):
    """Of frozen modules, which are in evaluation mode, none is compiled."""

    def fail(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr("longtail.engine.training.speed._check_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    expected = calibration_after(configure(kind, 2, "SOLVER.BASE_LR", 5.0))
    given = calibration_after(configure(kind, 2, "SOLVER.BASE_LR", 5.0, *overrides))
    # bfloat16 has 8 bits.
    tolerance = 0.01 if "SOLVER.AMP.ENABLED" in overrides else 1e-5
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, rtol=0, atol=tolerance)
    assert (expected["beta"]).abs().max() > 0.1


def test_weights_of_another_first_stage_are_refused(configure, first_stage):
    branch = "sem_seg_head.region_classifier.weight"
    remedy = "set MODEL.DISALIGN.BASE_HEAD_NAME to RegionRebalanceHead$"
    with pytest.raises(ValueError, match=f"{branch} is unexpected. .*: {remedy}"):
        start(configure("plain", 2, "MODEL.WEIGHTS", first_stage("regions")))
    with pytest.raises(ValueError, match=f"{branch} is missing. Set MODEL.WEIGHTS to a checkpoint"):
        start(configure("regions", 2, "MODEL.WEIGHTS", first_stage("plain")))
    with pytest.raises(ValueError, match=r"sem_seg_head\.convs\.0\.weight has shape") as info:
        start(configure("plain", 2, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 6))
    assert "base_head" not in str(info.value)


@pytest.fixture
def run(tmp_path, stripes):
    """A function that runs train_net.py with overrides and gives its output folder."""
    kept = [logging.getLogger(name) for name in ("detectron2", "fvcore", "longtail")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in kept]
    config_file = tiny_config_file(tmp_path)

    def call(name, *overrides, eval_only=False, resume=False):
        names = ["DATASETS.TRAIN", (stripes,), "DATASETS.TEST", (stripes,)]
        opts = [*names, "OUTPUT_DIR", str(tmp_path / name), *overrides]
        run_process(
            argparse.Namespace(
                config_file=str(config_file), opts=opts, eval_only=eval_only, resume=resume
            )
        )
        return tmp_path / name

    yield call
    # Runs set up logging for the whole process: take it back.
    for logger, (handlers, propagate, level) in zip(kept, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def weights_of(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def report_of(folder) -> dict:
    """Without its time and config."""
    path = folder / "inference" / NAME / "sem_seg_evaluation.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    del report["provenance"]
    return report


@each_kind
def test_first_stage_second_stage_resumed_and_evaluated(run, kind):
    first = run("first", *options(kind))
    second = options(kind, str(first / "model_final.pth"))
    output = run("second", *second, "SOLVER.MAX_ITER", 2)
    halfway = weights_of(output)
    run("second", *second, "SOLVER.MAX_ITER", 4, resume=True)
    trained, final = weights_of(first), weights_of(output)
    own = {name for name in final if name not in trained}
    assert {name.rpartition("calibration.")[0] for name in own} == {"sem_seg_head."}
    assert all(torch.equal(value, final[name]) for name, value in trained.items())
    assert not any(torch.equal(halfway[name], final[name]) for name in own)
    # Iterations 0, 1 and, resumed, 2, 3.
    lines = (output / "metrics.json").read_text(encoding="utf-8").splitlines()
    assert "disalign/alpha/tail" in lines[-1] or "disalign/alpha/tail" in lines[-2]
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    evaluated = run("evaluated", *second, *weights, eval_only=True)
    assert report_of(evaluated) == report_of(output)
    # A folder with a first stage is not resumed.
    with pytest.raises(SystemExit, match="holds a first stage, which a second one cannot resume"):
        run("first", *second, resume=True)
