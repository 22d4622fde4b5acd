# SPDX-License-Identifier: Apache-2.0
"""Schedules and parameter groups against the formulas."""

import pytest
import torch
from torch import nn

from longtail.engine.training.solver import build_lr_scheduler, build_optimizer
from tests.messages import raises_naming
from tests.tiny import tiny_config


class Model(nn.Module):
    """One of every kind of parameter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.layer_norm = nn.LayerNorm(2)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)


@pytest.fixture
def solve(tmp_path):
    def get(*overrides):
        overrides = [f"SOLVER.{x}" if i % 2 == 0 else x for i, x in enumerate(overrides)]
        cfg = tiny_config(tmp_path, overrides)
        torch.manual_seed(0)
        model = Model()
        optimizer = build_optimizer(cfg, model)
        return cfg, model, optimizer

    return get


def by_name(model, optimizer):
    names = {id(p): key for key, p in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def rates(cfg, optimizer):
    """The learning rate of each iteration, as the trainer's loop sees it."""
    scheduler = build_lr_scheduler(cfg, optimizer)
    seen = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(("power", "floor"), [(0.9, 1e-4), (1.0, 0.0), (0.9, 0.01)])
def test_poly_with_floor(solve, power, floor):
    cfg, _, optimizer = solve(
        "BASE_LR", 0.01, "MAX_ITER", 40, "POLY_LR_POWER", power, "POLY_LR_FLOOR", floor
    )
    expected = [(0.01 - floor) * (1 - t / 40) ** power + floor for t in range(40)]
    for seen, rate in zip(rates(cfg, optimizer), expected, strict=True):
        assert seen == pytest.approx([rate] * len(seen), abs=1e-12)


def test_poly_ends_at_the_floor(solve):
    cfg, _, optimizer = solve("BASE_LR", 0.01, "MAX_ITER", 5)
    rates(cfg, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4, abs=1e-15)


def test_warm_up_then_poly(solve):
    """Swin's recipe: linear from 1e-6 to the poly curve, which then falls to 0."""
    cfg, _, optimizer = solve(
        *("OPTIMIZER", "AdamW", "BASE_LR", 6e-5, "MAX_ITER", 40, "WARMUP_ITERS", 10),
        *("WARMUP_FACTOR", 1 / 60, "POLY_LR_POWER", 1.0, "POLY_LR_FLOOR", 0.0),
    )
    seen = [values[0] for values in rates(cfg, optimizer)]
    # At t = 10 the poly curve is at 6e-5 * 3/4.
    linear = [1e-6 + (6e-5 * 0.75 - 1e-6) * t / 10 for t in range(10)]
    poly = [6e-5 * (1 - t / 40) for t in range(10, 40)]
    assert seen == pytest.approx(linear + poly, abs=1e-12)


def test_a_warm_up_at_a_constant_rate(solve):
    cfg, _, optimizer = solve(
        *("BASE_LR", 0.01, "MAX_ITER", 10, "WARMUP_ITERS", 4, "WARMUP_METHOD", "constant"),
        *("WARMUP_FACTOR", 0.1, "POLY_LR_POWER", 1.0, "POLY_LR_FLOOR", 0.0),
    )
    seen = [values[0] for values in rates(cfg, optimizer)]
    expected = [0.001] * 4 + [0.01 * (1 - t / 10) for t in range(4, 10)]
    assert seen == pytest.approx(expected, abs=1e-12)


def test_a_training_shorter_than_its_warm_up(solve):
    """A trial run of 5 iterations: linear to where the poly curve ends, at the floor."""
    cfg, _, optimizer = solve(
        *("BASE_LR", 0.01, "MAX_ITER", 5, "WARMUP_ITERS", 1500, "WARMUP_FACTOR", 0.5),
        *("POLY_LR_POWER", 0.9, "POLY_LR_FLOOR", 1e-4),
    )
    seen = [values[0] for values in rates(cfg, optimizer)]
    assert seen == pytest.approx([0.005 + (1e-4 - 0.005) * t / 5 for t in range(5)], abs=1e-12)


def test_groups_keep_their_ratio(solve):
    cfg, model, optimizer = solve("BASE_LR", 0.01, "MAX_ITER", 4, "BIAS_LR_FACTOR", 2.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(3):
        groups = by_name(model, optimizer)
        assert groups["conv.bias"]["lr"] == pytest.approx(2 * groups["conv.weight"]["lr"])
        optimizer.step()
        scheduler.step()


def test_a_floor_above_the_learning_rate(solve):
    cfg, _, optimizer = solve("BASE_LR", 6e-5)
    with raises_naming(ValueError, "SOLVER.POLY_LR_FLOOR", "SOLVER.BASE_LR", "1.66667"):
        build_lr_scheduler(cfg, optimizer)


def test_a_learning_rate_that_is_not_positive(solve):
    cfg, _, optimizer = solve("BASE_LR", 0.0)
    with raises_naming(ValueError, "SOLVER.BASE_LR", "> 0", "0.0"):
        build_lr_scheduler(cfg, optimizer)


def test_detectron2_schedules_still_work(solve):
    cfg, _, optimizer = solve(
        *("LR_SCHEDULER_NAME", "WarmupMultiStepLR", "BASE_LR", 0.1, "MAX_ITER", 4),
        *("STEPS", (2,), "WARMUP_ITERS", 0),
    )
    assert [values[0] for values in rates(cfg, optimizer)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_an_unknown_schedule(solve):
    cfg, _, optimizer = solve("LR_SCHEDULER_NAME", "Sawtooth")
    with raises_naming(ValueError, "Sawtooth"):
        build_lr_scheduler(cfg, optimizer)


def test_weight_decay_by_rule(solve):
    _, model, optimizer = solve(
        *("WEIGHT_DECAY", 0.1, "WEIGHT_DECAY_NORM", 0.02, "WEIGHT_DECAY_BIAS", 0.003),
        *("NO_DECAY_PARAMS", ["relative_position_bias_table"]),
    )
    groups = by_name(model, optimizer)
    assert {key: group["weight_decay"] for key, group in groups.items()} == {
        "conv.weight": 0.1,
        "conv.bias": 0.003,
        "norm.weight": 0.02,
        "norm.bias": 0.003,
        "layer_norm.weight": 0.02,
        "layer_norm.bias": 0.003,
        "relative_position_bias_table": 0.0,
    }


def test_the_paper_decays_everything_alike(solve):
    _, model, optimizer = solve()
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    assert len(by_name(model, optimizer)) == 7


def test_sgd(solve):
    _, _, optimizer = solve("MOMENTUM", 0.8, "NESTEROV", True, "BASE_LR", 0.3)
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["momentum"], group["nesterov"], group["lr"]) == (0.8, True, 0.3)


def test_adamw(solve):
    _, model, optimizer = solve("OPTIMIZER", "AdamW", "BASE_LR", 6e-5, "WEIGHT_DECAY", 0.01)
    assert isinstance(optimizer, torch.optim.AdamW)
    group = by_name(model, optimizer)["conv.weight"]
    assert (group["lr"], group["weight_decay"]) == (6e-5, 0.01)
    # Decoupled decay: with a zero gradient the weight shrinks by lr * decay alone.
    before = model.conv.weight.detach().clone()
    model.conv.weight.grad = torch.zeros_like(before)
    optimizer.step()
    torch.testing.assert_close(model.conv.weight, before * (1 - 6e-5 * 0.01), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_gradient_clipping(solve, name):
    _, model, optimizer = solve(
        *("OPTIMIZER", name, "CLIP_GRADIENTS.ENABLED", True),
        *("CLIP_GRADIENTS.CLIP_TYPE", "norm", "CLIP_GRADIENTS.CLIP_VALUE", 0.5),
    )
    model.conv.weight.grad = torch.full_like(model.conv.weight, 100.0)
    optimizer.step()
    assert model.conv.weight.grad.norm().item() == pytest.approx(0.5, abs=1e-4)


def test_an_unknown_optimizer(solve):
    with raises_naming(ValueError, "SOLVER.OPTIMIZER", "'SGD'", "'AdamW'", "'Adam'"):
        solve("OPTIMIZER", "Adam")


def test_what_a_model_names_itself_is_not_decayed(tmp_path):
    model = Model()
    model.no_decay_params = ("relative_position_bias_table",)
    optimizer = build_optimizer(tiny_config(tmp_path, ["SOLVER.WEIGHT_DECAY", 0.1]), model)
    decays = {name: group["weight_decay"] for name, group in by_name(model, optimizer).items()}
    assert decays["relative_position_bias_table"] == 0.0
    assert decays["conv.weight"] == 0.1


def test_swins_warm_up_at_its_length(solve):
    """The recipe's own numbers: 1500 of 160k iterations from 1e-6 of the rate, then linear to 0."""
    cfg, _, optimizer = solve(
        *("OPTIMIZER", "AdamW", "BASE_LR", 6e-5, "MAX_ITER", 160_000, "WARMUP_ITERS", 1500),
        *("WARMUP_FACTOR", 1e-6, "POLY_LR_POWER", 1.0, "POLY_LR_FLOOR", 0.0),
    )
    scheduler = build_lr_scheduler(cfg, optimizer)

    def factor(iteration):
        scheduler.last_epoch = iteration
        return scheduler.get_lr()[0] / 6e-5

    assert factor(0) == pytest.approx(1e-6, rel=1e-9)
    # Half way up to the value of the line at its end, 1 - 1500 / 160000.
    end = 1 - 1500 / 160_000
    assert factor(750) == pytest.approx((1e-6 + end) / 2, rel=1e-9)
    assert factor(1500) == pytest.approx(end, rel=1e-9)
    assert factor(80_000) == pytest.approx(0.5, rel=1e-9)
    assert factor(159_999) == pytest.approx(1 / 160_000, rel=1e-6)
    assert factor(160_000) == 0


NORMS = {"norm.weight", "norm.bias", "layer_norm.weight", "layer_norm.bias"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        # Of whole names, and of last ones.
        (["*norm.*"], NORMS),
        (["layer_norm.*"], {"layer_norm.weight", "layer_norm.bias"}),
        (["bias"], {"conv.bias", "norm.bias", "layer_norm.bias"}),
        (["relative_*", "conv.weight"], {"relative_position_bias_table", "conv.weight"}),
        ([], set()),
    ],
)
def test_patterns_without_weight_decay(solve, patterns, expected):
    """They outdo what the other keys say."""
    decays = ("WEIGHT_DECAY", 0.1, "WEIGHT_DECAY_NORM", 0.2, "WEIGHT_DECAY_BIAS", 0.3)
    _, model, optimizer = solve(*decays, "NO_DECAY_PARAMS", patterns)
    groups = by_name(model, optimizer)
    assert len(groups) == 7
    assert {name for name, group in groups.items() if group["weight_decay"] == 0} == expected


@pytest.mark.parametrize("pattern", ["conv", "norm", "*.gamma", "Conv.*"])
def test_a_pattern_that_names_nothing(solve, pattern):
    with pytest.raises(ValueError, match=r"SOLVER\.NO_DECAY_PARAMS") as info:
        solve("NO_DECAY_PARAMS", ["bias", pattern])
    assert repr(pattern) in str(info.value) and "\n" not in str(info.value)
