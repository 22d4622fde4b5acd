# SPDX-License-Identifier: Apache-2.0
"""Training on the device: precision, memory format, compilation, resuming, recorded steps."""

import json
from types import ModuleType

import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from timm.layers import convert_sync_batchnorm
from torch import nn

from longtail.engine import Trainer
from longtail.engine.checkpoint import Checkpointer
from tests.device.test_cifar100_lt import (  # noqa: F401  (fixtures)
    colors,
    config,
    load,
    trained_together,
)
from tests.engine.training.test_speed import SEGMENTORS, assert_same_function
from tests.tiny import register_stripes, tiny_config
from tests.tiny_detection import detector_config, register_rectangles

STRIPES, RECTANGLES = "cuda_stripes", "cuda_rectangles"
# Mixed precision, and how far the first loss may be from float32's on the CPU.
PRECISIONS = {"float32": 2e-3, "float16": 1e-2, "bfloat16": 5e-2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        register_stripes(STRIPES, folder / "stripes", 6)
        register_rectangles(RECTANGLES, folder / "rectangles", 6)
        yield
    for name in (STRIPES, RECTANGLES):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def options(name, device, precision):
    amp = ["SOLVER.AMP.ENABLED", precision != "float32"]
    if precision != "float32":
        amp += ["SOLVER.AMP.DTYPE", precision]
    return ["MODEL.DEVICE", device, "DATASETS.TRAIN", (name,), "DATASETS.TEST", (), *amp]


def segmentor(folder, device, precision="float32", *more):
    regions = [*SEGMENTORS["ours with regions"], "MODEL.REGION_REBALANCE.BALANCED", True]
    own = ["MODEL.SEM_SEG_HEAD.DROPOUT", 0.0, *regions, *more]
    return tiny_config(folder, [*options(STRIPES, device, precision), *own])


def detector(folder, device, precision="float32", *more):
    return detector_config(folder, [*options(RECTANGLES, device, precision), *more])


def logged(cfg, resume=False):
    """The total loss of each iteration that was written, and the trainer."""
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    before = {k: p.detach().cpu().clone() for k, p in trainer.model.named_parameters()}
    trainer.resume_or_load(resume=resume)
    losses = []
    write = trainer._trainer._write_metrics

    def record(totals, *rest):
        losses.append(sum(float(v.detach()) for v in totals.values()))
        write(totals, *rest)

    trainer._trainer._write_metrics = record
    trainer.train()
    return losses, trainer, before


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [segmentor, detector], ids=lambda kind: kind.__name__)
def test_first_stages(data, device, tmp_path, kind, precision):
    for name in ("cpu", "gpu"):
        (tmp_path / name).mkdir()
    # The scaling of float16's losses begins with steps that are left out.
    number = 12 if precision == "float16" else 3
    cfg = kind(tmp_path / "gpu", device, precision, "SOLVER.MAX_ITER", number)
    losses, trainer, before = logged(cfg)
    assert len(losses) == number and all(map(torch.isfinite, torch.tensor(losses)))
    if kind is segmentor:
        # A detector samples its boxes at random, by the device's generator.
        expected = logged(kind(tmp_path / "cpu", "cpu"))[0]
        assert losses[0] == pytest.approx(expected[0], rel=PRECISIONS[precision])
    moved = [not torch.equal(p.cpu(), before[k]) for k, p in trainer.model.named_parameters()]
    assert sum(moved) > 0.8 * len(moved)
    assert all(
        p.device.type == device and p.dtype == torch.float32 for p in trainer.model.parameters()
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [segmentor, detector], ids=lambda kind: kind.__name__)
def test_second_stages(data, device, tmp_path, kind, precision):
    (tmp_path / "first").mkdir()
    torch.manual_seed(0)
    first = Trainer.build_model(kind(tmp_path / "first", device))
    Checkpointer(first, str(tmp_path)).save_weights("first")
    own = ["MODEL.META_ARCHITECTURE", "DisAlignRCNN"]
    if kind is segmentor:
        own = ["MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead"]
        own += ["MODEL.DISALIGN.BASE_HEAD_NAME", "RegionRebalanceHead"]
    cfg = kind(tmp_path, device, precision, *own, "MODEL.WEIGHTS", str(tmp_path / "first.pth"))
    losses, trainer, _ = logged(cfg)
    assert all(map(torch.isfinite, torch.tensor(losses)))
    trained = [k for k, p in trainer.model.named_parameters() if p.requires_grad]
    assert trained and all("calibration" in name for name in trained)
    frozen = first.state_dict()
    for key, value in trainer.model.state_dict().items():
        if key in frozen:
            assert torch.equal(value, frozen[key]), key


def test_channels_last(data, device, tmp_path):
    (tmp_path / "a").mkdir()
    plain = Trainer.build_model(segmentor(tmp_path / "a", device))
    last = Trainer.build_model(
        segmentor(tmp_path / "a", device, "float32", "MODEL.CHANNELS_LAST", True)
    )
    last.load_state_dict(plain.state_dict())
    assert_same_function("ours with regions", plain, last)


def test_batch_statistics_of_one_process_are_the_batchs(device, tmp_path):
    if device == "cpu":
        pytest.skip("synchronised batch normalisation needs a GPU")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(device)
    images = torch.randn(4, 3, 16, 16, device=device)
    expected = plain(images)
    mean = plain[1].running_mean.clone()
    plain[1].reset_running_stats()
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        synced = convert_sync_batchnorm(plain)
        assert isinstance(synced[1], nn.SyncBatchNorm)
        torch.testing.assert_close(synced(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(synced[1].running_mean, mean, rtol=1e-4, atol=1e-6)
    finally:
        dist.destroy_process_group()


def test_a_resumed_run_draws_the_same(data, device, tmp_path):
    drop = ["MODEL.SEM_SEG_HEAD.DROPOUT", 0.5, "SOLVER.CHECKPOINT_PERIOD", 2]
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = logged(segmentor(tmp_path / "whole", device, "float32", *drop, "SOLVER.MAX_ITER", 4))[0]
    cfg = segmentor(tmp_path / "parts", device, "float32", *drop, "SOLVER.MAX_ITER", 4)
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    # The schedule is that of four iterations, of which two are made.
    trainer.max_iter = 2
    trainer.train()
    rest = logged(cfg, resume=True)[0]
    assert len(rest) == 2
    assert rest == pytest.approx(whole[2:], rel=1e-3)
    lines = (tmp_path / "parts" / "output" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 3


def test_recorded_steps_are_the_trainers(load, colors, device, tmp_path):  # noqa: F811
    module: ModuleType = load("device.several_models")
    names = ("linear", "class_balanced", "seesaw", "ldam_drw")
    expected = trained_together(module, [config(name, tmp_path) for name in names])
    cfgs = [config(name, tmp_path, "MODEL.DEVICE", device) for name in names]
    for branches in (1, len(names)):
        images = module.Images.read(cfgs[0], cfgs[0].DATASETS.TRAIN[0], is_train=True)
        feed = module.Feed.draw(cfgs[0], images.records)
        learners = [module.Learner(cfg, feed, ("red", "green", "blue")) for cfg in cfgs]
        group = module.Group(learners, images, branches)
        assert group.seconds(3) > 0
        group.train()
        for name, learner, other in zip(names, learners, expected, strict=True):
            torch.testing.assert_close(
                learner.losses.cpu(), other.losses, rtol=2e-2, atol=1e-3, msg=f"{name}, {branches}"
            )


def test_compilation(data, device, tmp_path):
    """The last, as it takes a minute."""
    (tmp_path / "a").mkdir()
    plain = Trainer.build_model(segmentor(tmp_path / "a", device))
    fast = Trainer.build_model(segmentor(tmp_path / "a", device, "float32", "MODEL.COMPILE", True))
    fast.load_state_dict(plain.state_dict())
    assert_same_function("ours with regions", plain, fast)
