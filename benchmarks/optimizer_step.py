# SPDX-License-Identifier: Apache-2.0
"""The optimizer's step with the parameters of a ResNet-50: plain, foreach and fused.

    python benchmarks/optimizer_step.py

CPU time; the kinds take turns, and a training step on two images of 224 x 224 is timed beside
them, so that the share of the optimizer comes from one run.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from common import save_result
from torch import nn

KINDS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}),
    "AdamW": (torch.optim.AdamW, {"lr": 1e-4, "weight_decay": 0.05}),
}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (after one more)")
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model("resnet50")
    images = torch.randn(2, 3, 224, 224)
    steps = {
        f"{name}, {kind}": optimizer_step(model, *OPTIMIZERS[name], KINDS[kind])
        for name in OPTIMIZERS
        for kind in KINDS
    }
    steps["forward and backward"] = lambda: model(images).square().mean().backward()
    times = interleaved(steps, options.rounds)
    figures = {f"{name} (ms)": time for name, time in times.items()}
    for name in OPTIMIZERS:
        plain, fused = times[f"{name}, plain"], times[f"{name}, fused"]
        rest = times["forward and backward"]
        figures[f"{name}, fused: times faster"] = plain / fused
        figures[f"{name}: share of a step, plain (%)"] = 100 * plain / (plain + rest)
        figures[f"{name}: share of a step, fused (%)"] = 100 * fused / (fused + rest)
    for name, value in figures.items():
        print(f"{name:45s} {value:8.2f}")
    if not options.no_save:
        figures["parameters"] = sum(p.numel() for p in model.parameters())
        save_result("optimizer_step", {**figures, "threads": torch.get_num_threads()})


def optimizer_step(
    model: nn.Module, kind: type[torch.optim.Optimizer], options: dict, kernel: dict
) -> Callable[[], None]:
    """The step of an optimizer of copies of the model's parameters, with gradients."""
    params = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    for parameter in params:
        parameter.grad = torch.randn_like(parameter) * 0.01
    return kind(params, **options, **kernel).step


def interleaved(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of CPU time of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if index > 0:
                times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
