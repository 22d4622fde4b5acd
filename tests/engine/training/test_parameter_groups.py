# SPDX-License-Identifier: Apache-2.0
"""Learning rate and weight decay of every kind of parameter."""

import pytest
from timm import layers
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from longtail.engine import Trainer
from longtail.engine.training.solver import build_lr_scheduler, build_optimizer
from tests.messages import raises_naming
from tests.tiny import tiny_config


def by_name(model, optimizer):
    names = {id(p): key for key, p in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


class Blocks(nn.Module):
    """A vision transformer's outline: an embedding, L = 2 blocks and a neck; not its function."""

    num_layers = 2

    def __init__(self):
        super().__init__()
        self.embedding = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.neck = nn.Linear(4, 4)

    def layer_of(self, name):
        part, _, rest = name.partition(".")
        return {"embedding": 0, "blocks": 1 + int(rest[0] == "1"), "neck": 3}[part]


def transformer():
    return nn.ModuleDict({"backbone": Blocks(), "sem_seg_head": nn.Linear(4, 3)})


def test_layer_wise_decay_of_the_learning_rate(tmp_path):
    """BEiT's recipe, by hand: 0.9^(L + 1 - l) with L = 2; and the schedule scales all groups."""
    cfg = tiny_config(
        tmp_path,
        [
            *("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 2e-5, "SOLVER.LAYER_DECAY", 0.9),
            *("SOLVER.WEIGHT_DECAY", 0.05, "SOLVER.WEIGHT_DECAY_BIAS", 0.0),
            *("SOLVER.MAX_ITER", 10, "SOLVER.POLY_LR_POWER", 1.0, "SOLVER.POLY_LR_FLOOR", 0.0),
        ],
    )
    model = transformer()
    optimizer = build_optimizer(cfg, model)
    factors = {
        "backbone.embedding": 0.729,
        "backbone.blocks.0": 0.81,
        "backbone.blocks.1": 0.9,
        "backbone.neck": 1.0,
        "sem_seg_head": 1.0,
    }
    groups = by_name(model, optimizer)
    assert len(groups) == 10
    for name, group in groups.items():
        module, _, last = name.rpartition(".")
        assert group["lr"] == pytest.approx(2e-5 * factors[module], rel=1e-12)
        assert group["weight_decay"] == (0.0 if last == "bias" else 0.05)
    # Four rates, with and without weight decay.
    assert len(optimizer.param_groups) == 8
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    for name, group in by_name(model, optimizer).items():
        expected = 2e-5 * factors[name.rpartition(".")[0]] / 2
        assert group["lr"] == pytest.approx(expected, rel=1e-9)


def test_without_layer_decay_there_are_few_groups(tmp_path):
    optimizer = build_optimizer(tiny_config(tmp_path), transformer())
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.01])
def test_a_layer_decay_out_of_range(tmp_path, decay):
    cfg = tiny_config(tmp_path, ["SOLVER.LAYER_DECAY", decay])
    with raises_naming(ValueError, "SOLVER.LAYER_DECAY", "(0, 1]", f"{decay:g}"):
        build_optimizer(cfg, transformer())


def test_layer_decay_needs_numbered_layers(tmp_path):
    cfg = tiny_config(tmp_path, ["SOLVER.LAYER_DECAY", 0.9])
    with raises_naming(ValueError, "SOLVER.LAYER_DECAY 0.9", "TimmPlainBackbone", "TimmBackbone"):
        build_optimizer(cfg, Trainer.build_model(cfg))


TRANSFORMERS = {
    "swin": (
        lambda: SwinTransformer(
            img_size=28, patch_size=2, embed_dim=8, depths=(2,), num_heads=(2,)
        ),
        ["relative_position_bias_table"],
    ),
    "beit": (
        lambda: Beit(
            img_size=16,
            patch_size=8,
            embed_dim=8,
            depth=2,
            num_heads=2,
            init_values=0.1,
            use_abs_pos_emb=True,
            use_rel_pos_bias=True,
        ),
        [
            *("relative_position_bias_table", "q_bias", "v_bias", "gamma_1", "gamma_2"),
            *("cls_token", "pos_embed"),
        ],
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_only_the_kernels_of_timms_transformers_decay(tmp_path, name):
    """By shape: what is left to decay is the matrices, and all of them."""
    build, no_decay = TRANSFORMERS[name]
    model = build()
    cfg = tiny_config(
        tmp_path,
        [
            *("SOLVER.WEIGHT_DECAY", 0.05, "SOLVER.WEIGHT_DECAY_NORM", 0.0),
            *("SOLVER.WEIGHT_DECAY_BIAS", 0.0, "SOLVER.NO_DECAY_PARAMS", no_decay),
        ],
    )
    groups = by_name(model, build_optimizer(cfg, model))
    decayed = {key for key, group in groups.items() if group["weight_decay"] > 0}
    matrices = {key for key, p in model.named_parameters() if key.endswith("weight") and p.ndim > 1}
    assert decayed == matrices and len(matrices) > 6
    assert groups.keys() == {key for key, _ in model.named_parameters()}


NORM_CLASSES = [
    *(layers.LayerNorm, layers.LayerNorm2d, layers.LayerNormAct, layers.BatchNormAct2d),
    *(layers.GroupNorm, layers.GroupNormAct, layers.RmsNorm, layers.RmsNorm2d, nn.RMSNorm),
    *(layers.SyncBatchNormAct, layers.SimpleNorm, layers.RmsNormAct),
]


@pytest.mark.parametrize("norm", NORM_CLASSES, ids=lambda norm: norm.__name__)
def test_every_normalisation_counts_as_one(tmp_path, norm):
    model = nn.Sequential(nn.Linear(32, 32), norm(32))
    cfg = tiny_config(tmp_path, ["SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_NORM", 0.02])
    groups = by_name(model, build_optimizer(cfg, model))
    assert groups["1.weight"]["weight_decay"] == 0.02
    assert groups["0.weight"]["weight_decay"] == 0.1


def test_a_parameter_of_two_modules_is_in_one_group(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    optimizer = build_optimizer(tiny_config(tmp_path), model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
