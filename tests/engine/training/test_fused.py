# SPDX-License-Identifier: Apache-2.0
"""Fused optimizers against the formulas in float64, and checkpoints of either kind."""

import copy

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from longtail.engine.training.fused import fused_where_possible
from longtail.engine.training.solver import build_optimizer
from longtail.engine.training.step import StepTrainer
from tests.tiny import tiny_config

SHAPES = [(6, 4, 3, 3), (6,), (5, 6)]
RATE, DECAY, MOMENTUM, STEPS = 0.05, 0.02, 0.9, 20
OPTIONS = {
    torch.optim.SGD: {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY},
    torch.optim.AdamW: {"lr": RATE, "weight_decay": DECAY},
}
KINDS = pytest.mark.parametrize("kind", list(OPTIONS))


def numbers(seed):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in SHAPES]


def parameters(memory_format=torch.contiguous_format):
    values = [torch.from_numpy(x).float() for x in numbers(0)]
    values[0] = values[0].to(memory_format=memory_format)
    return [nn.Parameter(value) for value in values]


def sgd(w, gradients):
    """v = mu v + g + d w, w -= r v (v = g + d w at first)."""
    v = 0
    for g in gradients:
        v = MOMENTUM * v + g + DECAY * w
        w = w - RATE * v
    return w


def adamw(w, gradients):
    """The paper's algorithm 2, with the decay times the rate, as torch has it."""
    m = v = 0
    for t, g in enumerate(gradients, start=1):
        w = w - RATE * DECAY * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def expected(kind, steps=STEPS):
    formula = sgd if kind is torch.optim.SGD else adamw
    seen = [numbers(step + 1) for step in range(steps)]
    return [formula(w, [g[i] for g in seen]) for i, w in enumerate(numbers(0))]


def run(optimizer, params, first=0, last=STEPS, memory_format=None):
    for step in range(first, last):
        for parameter, gradient in zip(params, numbers(step + 1), strict=True):
            parameter.grad = torch.from_numpy(gradient).float()
        if memory_format:
            params[0].grad = params[0].grad.to(memory_format=memory_format)
        optimizer.step()


def check(params, kind):
    for parameter, value in zip(params, expected(kind), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=2e-6, atol=1e-6)


def plain(kind, params):
    return kind([{"params": params}], fused=False, **OPTIONS[kind])


def fused(kind, params):
    optimizer = fused_where_possible(kind, [{"params": params}], **OPTIONS[kind])
    assert optimizer.param_groups[0]["fused"] is True
    return optimizer


@KINDS
def test_twenty_steps(kind):
    params = parameters()
    run(fused(kind, params), params)
    check(params, kind)
    others = parameters()
    run(plain(kind, others), others)
    for one, other in zip(params, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@KINDS
@pytest.mark.parametrize("first", [plain, fused])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_checkpoint_of_either_continues(kind, first, memory_format):
    """Also in another memory format than it was trained in."""
    params = parameters(torch.channels_last)
    optimizer = first(kind, params)
    run(optimizer, params, last=8, memory_format=torch.channels_last)
    state = copy.deepcopy(optimizer.state_dict())
    others = parameters(memory_format)
    for other, parameter in zip(others, params, strict=True):
        other.data.copy_(parameter.data)
    again = fused(kind, others)
    again.load_state_dict(state)
    assert again.param_groups[0]["fused"] is True
    run(again, others, first=8)
    check(others, kind)


@KINDS
def test_where_there_is_no_such_kernel(kind):
    """A plain optimizer is built, and goes on from a fused one's checkpoint."""

    class Elsewhere(kind):
        def __init__(self, groups, *, fused=None, **options):
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be on another device")
            super().__init__(groups, **options)

    params = parameters()
    optimizer = fused(kind, params)
    run(optimizer, params, last=8)
    slow = fused_where_possible(Elsewhere, [{"params": params}], **OPTIONS[kind])
    slow.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not slow.param_groups[0]["fused"]
    run(slow, params, first=8)
    check(params, kind)


def test_groups_are_not_changed():
    groups = [{"params": parameters(), "lr": 0.5}]
    optimizer = fused_where_possible(torch.optim.SGD, groups, lr=0.1)
    assert list(groups[0]) == ["params", "lr"] and optimizer.param_groups[0]["lr"] == 0.5


@KINDS
@pytest.mark.parametrize("parameter_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_another_memory_format(kind, parameter_format):
    """The kernel of CPUs reads memory in order, whatever the strides say."""
    params = parameters(parameter_format)
    other = ({torch.contiguous_format, torch.channels_last} - {parameter_format}).pop()
    run(fused(kind, params), params, memory_format=other)
    check(params, kind)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_config_gives_a_fused_one(tmp_path, name):
    cfg = tiny_config(tmp_path, ["SOLVER.OPTIMIZER", name])
    assert all(g["fused"] for g in build_optimizer(cfg, nn.Linear(2, 2)).param_groups)


class Scaled(nn.Module):
    """Its loss has the gradient (3, 4), of norm 5."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, batch):
        return {"loss": (self.weight * torch.tensor([3.0, 4.0])).sum()}


def test_gradients_are_clipped_without_the_scale_of_the_loss(tmp_path):
    """A float16 loss is multiplied by 65,536: cut to norm 10, what is left would be near 0."""
    options = ["CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", "norm"]
    options += ["CLIP_GRADIENTS.CLIP_VALUE", 10.0, "BASE_LR", 0.1, "WEIGHT_DECAY", 0.0]
    options = [f"SOLVER.{x}" if i % 2 == 0 else x for i, x in enumerate(options)]
    model = Scaled()
    optimizer = build_optimizer(tiny_config(tmp_path, options), model)
    trainer = StepTrainer(model, [[{}]] * 2, optimizer, "cpu", dtype="float16")
    trainer.iter = 0
    with EventStorage(0):
        trainer.run_step()
    torch.testing.assert_close(model.weight.detach(), torch.tensor([-0.3, -0.4]))
