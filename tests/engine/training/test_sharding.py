# SPDX-License-Identifier: Apache-2.0
"""A model in shards trains as one in DistributedDataParallel does."""

import os
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from longtail.engine import Trainer
from longtail.engine.training.sharding import blocks, check_sharding, shard, whole_state
from tests.messages import raises_naming
from tests.processes import run_in_two_processes
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import classification_config, register_colors

# Trainings in two processes: a minute of processor time.
pytestmark = pytest.mark.slow

FSDP = ("SOLVER.FSDP.ENABLED", True)
SMOOTH = ("MODEL.TIMM.NAME", "test_convnext")
ADAMW = ("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 1e-3)
CLIP = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm")
CLIP = (*CLIP, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01)
AMP = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE")
REGIONS = (
    *("MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"),
    *("MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead", "MODEL.SEM_SEG_HEAD.DROPOUT", 0.0),
)


def images(folder: Path, *keys: object) -> CfgNode:
    sets = ("DATASETS.TRAIN", ("shard_colors",), "DATASETS.TEST", ())
    return classification_config(folder, [*sets, *keys])


def pixels(folder: Path, *keys: object) -> CfgNode:
    sets = ("DATASETS.TRAIN", ("shard_stripes",), "DATASETS.TEST", ())
    return tiny_config(folder, [*sets, "SOLVER.WARMUP_ITERS", 0, *REGIONS, *keys])


# Batch statistics of two values have steps where rounding decides: ConvNeXt has none.
CASES = {
    "SGD, clipped": (images, (*SMOOTH, *CLIP)),
    "AdamW, clipped": (images, (*SMOOTH, *ADAMW, *CLIP)),
    "accumulation": (images, (*SMOOTH, "SOLVER.ACCUMULATION_STEPS", 2)),
    "bfloat16": (images, (*SMOOTH, *AMP, "bfloat16")),
    "batch statistics, hooks, regions": (pixels, ()),
}


def register(folder: Path) -> None:
    """Each process has its own copy: it may be slower than the other one."""
    os.environ["LONGTAIL_CACHE"] = str(folder / "cache")
    register_colors("shard_colors", folder / "colors")
    register_stripes("shard_stripes", folder / "stripes", count=8)


def steps(cfg: CfgNode, rank: int) -> tuple[Trainer, list[dict]]:
    """Three of them; weights differ by rank until they are shared, as with a seed of each."""
    torch.manual_seed(rank)
    trainer = Trainer(cfg)
    losses = []
    trainer.model.register_forward_hook(
        lambda model, inputs, output: losses.append({k: v.item() for k, v in output.items()})
    )
    with EventStorage() as storage:
        for storage.iter in range(3):
            trainer._trainer.run_step()
    return trainer, losses


def sizes(trainer: Trainer) -> int:
    """Bytes of parameters, gradients and the optimizer's state that this process holds."""
    held = [tensor for p in trainer.model.parameters() for tensor in (p, p.grad)]
    for state in trainer.optimizer.state.values():
        held += [value for value in state.values() if isinstance(value, torch.Tensor)]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in held]
    return sum(t.numel() * t.element_size() for t in local)


def train_both(rank: int, folder: Path) -> None:
    own = folder / str(rank)
    own.mkdir()
    register(own)
    results = {}
    for name, (build, keys) in CASES.items():
        plain, expected = steps(build(own, *keys), rank)
        sharded, losses = steps(build(own, *FSDP, *keys), rank)
        results[name] = {
            "losses": (losses, expected),
            "weights": (whole_state(sharded.model), plain.model.module.state_dict()),
            "bytes": (sizes(sharded), sizes(plain)),
        }
    torch.save(results, folder / f"{rank}.pth")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    run_in_two_processes(train_both, folder)
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_shards_compute_what_copies_do(results, case):
    for of_rank in (result[case] for result in results):
        actual, expected = of_rank["losses"]
        # Mixed precision rounds to 8 bits, and may do so differently after a last bit.
        low = case == "bfloat16"
        assert len(actual) == len(expected) == (6 if case == "accumulation" else 3)
        for a, e in zip(actual, expected, strict=True):
            assert a == pytest.approx(e, abs=1e-3 if low else 1e-6)
        actual, expected = of_rank["weights"]
        assert list(actual) == list(expected)
        for name, value in expected.items():
            difference = (actual[name].double() - value.double()).abs().max().item()
            assert difference <= (1e-3 if low else 1e-6), name
    # The data of the two processes are not the same.
    assert results[0][case]["losses"] != results[1][case]["losses"]


def test_each_process_holds_half(results):
    """A count of steps apart, 4 bytes for each of n tensors, which both have."""
    values = results[0]["AdamW, clipped"]["weights"][0].values()
    # Parameters, gradients and two averages, in float32.
    whole = 16 * sum(value.numel() for value in values)
    counts = 4 * len(values)
    both = [result["AdamW, clipped"]["bytes"] for result in results]
    assert [plain for _, plain in both] == [whole + counts] * 2
    assert sum(sharded for sharded, _ in both) == whole + 2 * counts
    # Uneven where a number of rows is odd.
    assert abs(both[0][0] - both[1][0]) < 0.01 * whole


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.ReLU())


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.stages = nn.ModuleList(nn.Sequential(Block(), Block()) for _ in range(2))


def test_blocks_are_what_stages_consist_of():
    backbone = Backbone()
    first, second = backbone.stages
    expected = {first[0], first[1], second[0], second[1]}
    found = blocks(backbone)
    assert len(found) == 4 and set(found) == expected
    # Inner ones first.
    outer = Block()
    outer.stages = backbone.stages
    found = blocks(nn.ModuleDict({"all": nn.ModuleList([outer])}))
    assert set(found) == expected | {outer} and found[-1] is outer


class Model(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.backbone = Backbone()
        for name, part in parts.items():
            setattr(self, name, part)


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


def second_stage() -> nn.Module:
    model = Model(classifier=nn.Linear(1, 1))
    model.trained_module_names = ("classifier",)
    return model


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (second_stage(), "second stage"),
        (Model(norm=nn.SyncBatchNorm(1)), "MODEL.SYNC_BN"),
        (Model(head=Temperature()), "head.scale"),
        (Model(backbone=nn.Linear(1, 1)), "Model"),
        (nn.Linear(1, 1), "Linear"),
    ],
)
def test_models_that_cannot_be_divided(model, part):
    with raises_naming(ValueError, "SOLVER.FSDP.ENABLED", part, "False"):
        shard(model)


def test_one_process(tmp_path):
    with raises_naming(ValueError, "SOLVER.FSDP.ENABLED", "torchrun", "False"):
        Trainer(images(tmp_path, *FSDP))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.COMPILE", True),
        ("MODEL.CHANNELS_LAST", True),
        ("SOLVER.CHECKPOINT_MINUTES", 5.0),
        ("SOLVER.BEST_CHECKPOINT_METRIC", "classification/top1"),
        ("TEST.AUG.ENABLED", True),
    ],
)
def test_what_does_not_work_with_shards(tmp_path, monkeypatch, key, value):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    check_sharding(images(tmp_path, *FSDP))
    check_sharding(images(tmp_path, key, value))
    with raises_naming(ValueError, "SOLVER.FSDP.ENABLED", key, str(value)):
        check_sharding(images(tmp_path, *FSDP, key, value))
