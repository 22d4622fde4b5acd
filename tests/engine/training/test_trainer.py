# SPDX-License-Identifier: Apache-2.0
"""Training on a CPU, end to end on tiny images."""

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from longtail.engine import Trainer
from longtail.engine.training import trainer as trainer_module
from longtail.engine.training.step import StepTrainer
from longtail.engine.training.trainer import convert_sync_batchnorm
from longtail.modeling import TimmBackbone
from longtail.utils.errors import StoppedError
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.tiny import register_stripes

# Without randomness a batch is the same whenever it is drawn.
FIXED = [
    *("INPUT.RESIZE_SCALE_RANGE", [1.0, 1.0], "INPUT.RANDOM_FLIP", "none"),
    *("INPUT.PHOTOMETRIC", False, "MODEL.SEM_SEG_HEAD.DROPOUT", 0.0),
]


class Losses(HookBase):
    """The total loss of each iteration."""

    def __init__(self):
        self.values = []

    def after_step(self):
        self.values.append(self.trainer.storage.latest()["total_loss"][0])


def train(cfg, *, resume=False, stop_at=None):
    # As the entry point does with SEED: data are drawn from numpy's and Python's generators.
    seed_all_rng(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if stop_at is not None:
        trainer.max_iter = stop_at
    losses = Losses()
    trainer.register_hooks([losses])
    trainer.train()
    return trainer, losses.values


def metrics(cfg):
    with open(f"{cfg.OUTPUT_DIR}/metrics.json", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def one_image(tmp_path, configure):
    """A config whose every batch is the same image twice: data cannot differ between runs."""
    name = register_stripes("tiny_stripes_train", tmp_path / "one", count=1)

    def get(folder, *overrides):
        options = ["DATASETS.TRAIN", (name,), "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 6]
        cfg = configure(*FIXED, *options, "SOLVER.CHECKPOINT_PERIOD", 3, *overrides)
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        return cfg

    return get


def test_training_learns_and_is_evaluated(configure, caplog):
    cfg = configure(
        *("SOLVER.MAX_ITER", 20, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.01),
        *("TEST.EVAL_PERIOD", 10, "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2"]),
        *FIXED,
    )
    with caplog.at_level(logging.INFO):
        _, losses = train(cfg)
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    lines = metrics(cfg)
    evaluated = [line for line in lines if "sem_seg/mIoU" in line]
    assert len(evaluated) >= 2
    assert 0 <= evaluated[-1]["sem_seg/mIoU"] <= 100
    # Progress: losses, learning rate, remaining time and memory.
    keys = set().union(*lines)
    assert {"total_loss", "loss_sem_seg", "loss_auxiliary", "lr", "eta_seconds"} <= keys
    # In MB: torch alone takes more than 100, and nothing here a thousand times as much.
    assert 100 < max(line.get("max_host_mem_mb", 0) for line in lines) < 50_000
    if not torch.cuda.is_available():
        assert any("max_host_mem" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "options",
    [[], ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"]],
    ids=["float32", "bfloat16"],
)
def test_an_interrupted_training_resumes_exactly(one_image, options):
    whole, losses = train(one_image("whole", *options))
    _, first = train(one_image("parts", *options), stop_at=3)
    resumed, second = train(one_image("parts", *options), resume=True)
    assert (resumed.start_iter, len(first), len(second)) == (3, 3, 3)
    assert first + second == pytest.approx(losses, abs=1e-6)
    expected = whole.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=0, msg=key)
    states = [t._trainer.optimizer.state_dict() for t in (whole, resumed)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for index, state in states[0]["state"].items():
        momentum = states[1]["state"][index]["momentum_buffer"]
        torch.testing.assert_close(momentum, state["momentum_buffer"], atol=1e-6, rtol=0)
    assert resumed.scheduler.last_epoch == whole.scheduler.last_epoch == 6


def test_resume_restores_optimizer_schedule_and_iteration(one_image):
    trained, _ = train(one_image("parts"), stop_at=3)
    fresh = Trainer(one_image("parts"))
    fresh.resume_or_load(resume=True)
    assert fresh.start_iter == 3
    assert fresh.scheduler.last_epoch == 3
    saved, loaded = (t._trainer.optimizer.state_dict() for t in (trained, fresh))
    assert saved["param_groups"] == loaded["param_groups"]
    assert len(saved["state"]) > 0
    for index, state in saved["state"].items():
        assert torch.equal(state["momentum_buffer"], loaded["state"][index]["momentum_buffer"])


@pytest.mark.parametrize(
    "other", [["SOLVER.OPTIMIZER", "AdamW"], ["MODEL.TIMM.FREEZE_AT", 2]], ids=str
)
def test_resume_with_another_optimizer(one_image, other):
    train(one_image("parts"), stop_at=3)
    fresh = Trainer(one_image("parts", *other))
    with raises_naming(ValueError, "--resume", "SOLVER.OPTIMIZER", "FREEZE_AT", "MODEL.WEIGHTS"):
        fresh.resume_or_load(resume=True)


class UnreadParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.unread = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, batch):
        return {"loss": self.read(torch.ones(1, 1)).sum()}


def train_with_an_unread_parameter(rank: int, folder: Path) -> None:
    model = DistributedDataParallel(UnreadParameter())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, [[{}]] * 3, optimizer, "cpu")
    with EventStorage():
        trainer.run_step()
        try:
            trainer.run_step()
        except ValueError as error:
            (folder / f"{rank}.txt").write_text(str(error))


def test_a_level_that_no_head_reads_in_two_processes(tmp_path):
    run_in_two_processes(train_with_an_unread_parameter, tmp_path)
    for rank in range(2):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert "OUT_FEATURES name only levels" in message and "\n" not in message


def test_without_resume_only_weights_are_taken(one_image):
    trained, _ = train(one_image("first"), stop_at=3)
    weights = f"{trained.cfg.OUTPUT_DIR}/model_final.pth"
    fresh = Trainer(one_image("second", "MODEL.WEIGHTS", weights))
    fresh.resume_or_load(resume=False)
    assert fresh.start_iter == 0
    assert not fresh._trainer.optimizer.state_dict()["state"]
    own = fresh.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in trained.model.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_keeps_float32_weights(one_image, dtype):
    cfg = one_image("amp", "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype)
    seen = []
    trainer = Trainer(cfg)
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    trainer.model.sem_seg_head.predictor.register_forward_hook(
        lambda _, inputs, output: seen.append(output.dtype)
    )
    with EventStorage():
        # float16 skips steps until its scale fits.
        for _ in range(12):
            trainer._trainer.run_step()
    assert set(seen) == {getattr(torch, dtype)}
    parameters = dict(trainer.model.named_parameters())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in parameters.values())
    assert any(not torch.equal(p, before[key]) for key, p in parameters.items())
    assert trainer._trainer.grad_scaler.is_enabled() == (dtype == "float16")


def test_state_of_the_loss_scaling(one_image):
    cfg = one_image("amp", "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16")
    trainer = Trainer(cfg)
    trainer._trainer.grad_scaler.load_state_dict(
        {**trainer._trainer.grad_scaler.state_dict(), "scale": 256.0, "_growth_tracker": 5}
    )
    trainer.checkpointer.save("scaled")
    other = Trainer(cfg)
    other.checkpointer.load(f"{cfg.OUTPUT_DIR}/scaled.pth")
    state = other._trainer.grad_scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (256.0, 5)
    # A checkpoint of a float32 run has no such state.
    plain = Trainer(one_image("plain"))
    plain.checkpointer.save("plain")
    other.checkpointer.load(f"{plain.cfg.OUTPUT_DIR}/plain.pth")
    # And one of a float16 run serves a float32 run.
    plain.checkpointer.load(f"{cfg.OUTPUT_DIR}/scaled.pth")
    # A bfloat16 run has a scaler, but one without a state.
    bfloat16 = one_image("bf16", "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16")
    unscaled = Trainer(bfloat16)
    unscaled.checkpointer.save("unscaled")
    other.checkpointer.load(f"{bfloat16.OUTPUT_DIR}/unscaled.pth")


def test_synchronised_batch_normalisation_keeps_activations():
    """What a run on several GPUs does; timm's BatchNormAct2d is norm and activation in one."""
    backbone = TimmBackbone(name="test_efficientnet").eval()
    image = torch.randn(1, 3, 64, 64)
    before = backbone(image)
    converted = convert_sync_batchnorm(backbone)
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in converted.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in converted.modules())
    for name, expected in before.items():
        assert torch.equal(converted(image)[name], expected)


@pytest.mark.parametrize(
    ("processes", "device", "sync", "expected"),
    [
        (2, "cuda", True, nn.SyncBatchNorm),
        (2, "cuda", False, nn.BatchNorm2d),
        (1, "cuda", True, nn.BatchNorm2d),
        (2, "cpu", True, nn.BatchNorm2d),
    ],
)
def test_when_batch_normalisation_is_synchronised(
    configure, monkeypatch, processes, device, sync, expected
):
    """In a run on several GPUs, unless the config says no; the model is not on one here."""
    model = nn.Sequential(nn.BatchNorm2d(3))
    monkeypatch.setattr(DefaultTrainer, "build_model", classmethod(lambda cls, cfg: model))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
    cfg = configure("MODEL.SYNC_BN", sync, "MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE", True)
    # Here, where the machine may have no GPU: reading a config would then choose the CPU.
    cfg.MODEL.DEVICE = device
    assert type(Trainer.build_model(cfg)[0]) is expected


def test_a_batch_is_divided_by_processes_and_parts(configure, monkeypatch):
    """Before anything is built: 4 images in 2 processes cannot be done in 4 parts each."""
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    cfg = configure("SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATION_STEPS", 4)
    with raises_naming(ValueError, "SOLVER.ACCUMULATION_STEPS", "SOLVER.IMS_PER_BATCH", "4", "2"):
        Trainer(cfg)


def test_an_unknown_precision():
    with raises_naming(ValueError, "SOLVER.AMP.DTYPE", "'bfloat16'", "'float16'", "'float8'"):
        StepTrainer(torch.nn.Linear(1, 1), [], None, "cpu", dtype="float8")


def test_no_training_set(configure):
    with raises_naming(ValueError, "DATASETS.TRAIN", "empty"):
        Trainer(configure("DATASETS.TRAIN", ()))


def test_an_unregistered_training_set(configure):
    with raises_naming(ValueError, "'nowhere'", "registered"):
        Trainer(configure("DATASETS.TRAIN", ("nowhere",)))


def test_another_number_of_classes(configure):
    key = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
    options = (key, 7)
    with raises_naming(ValueError, "tiny_stripes_train", "3", key, "7"):
        Trainer(configure(*options))


def test_a_loss_that_is_not_finite(one_image):
    cfg = one_image("diverged", "SOLVER.BASE_LR", 1e6)
    with pytest.raises(StoppedError, match=r"Loss became infinite or NaN.*--resume") as caught:
        train(cfg)
    assert isinstance(caught.value.__cause__, FloatingPointError)


def test_multi_scale_testing_has_results_of_its_own(configure):
    cfg = configure("TEST.AUG.SCALES", [1.0], "TEST.AUG.FLIP", False)
    model = Trainer.build_model(cfg)
    plain = Trainer.test(cfg, model)["sem_seg"]
    augmented = Trainer.test_with_TTA(cfg, model)
    assert list(augmented) == ["sem_seg_TTA"]
    # One copy at scale 1 is the plain test.
    assert augmented["sem_seg_TTA"]["mIoU"] == pytest.approx(plain["mIoU"], abs=1e-6)
    # Neither report takes the other's place.
    for folder in ("inference", "inference_TTA"):
        report = Path(cfg.OUTPUT_DIR) / folder / "tiny_stripes_val" / "sem_seg_evaluation.json"
        assert report.is_file()


def test_a_data_set_whose_name_is_a_path_keeps_its_results_in_the_folder(configure, monkeypatch):
    cfg = configure()
    folders = []
    monkeypatch.setattr(trainer_module, "build_evaluator", lambda *args: folders.append(args[2]))
    Trainer.build_evaluator(cfg, "../../a/b")
    Trainer.build_evaluator(cfg, "a")
    base = Path(cfg.OUTPUT_DIR) / "inference"
    assert folders == [str(base / "%2E.%2F..%2Fa%2Fb"), str(base / "a")]
