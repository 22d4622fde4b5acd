# SPDX-License-Identifier: Apache-2.0
"""Region pooling: time against reading the features and writing their gradient, and memory.

    python benchmarks/region_pooling.py

All times are medians of alternating runs in one process, on fresh gradients.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import save_result
from region_rebalance.functional import pool_regions
from tabulate import tabulate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

CLASSES_IN_IMAGE = 16
NUM_CLASSES = 150


def make_inputs(device: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Random features, and labels of 8x8 blocks with 16 classes in every image."""
    N, _, H, W = shape
    generator = torch.Generator().manual_seed(0)
    labels = torch.empty(N, H, W, dtype=torch.long)
    for n in range(N):
        present = torch.randperm(NUM_CLASSES, generator=generator)[:CLASSES_IN_IMAGE]
        blocks = present[torch.randint(0, CLASSES_IN_IMAGE, (H // 8, W // 8), generator=generator)]
        labels[n] = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
    features = torch.randn(shape, generator=generator)
    return features.to(device).requires_grad_(), labels.to(device)


def ours(features: Tensor, labels: Tensor) -> None:
    """Forward and backward of the pooling."""
    regions, _ = pool_regions(features, labels, NUM_CLASSES)
    regions.backward(torch.ones_like(regions))


def loop(features: Tensor, labels: Tensor) -> None:
    """Forward and backward of the plain definition, a mask for each image and class."""
    regions = []
    for n in range(len(features)):
        for c in labels[n].unique():
            mask = (labels[n] == c).to(features.dtype)
            regions.append((features[n] * mask).sum(dim=(1, 2)) / mask.sum())
    regions = torch.stack(regions)
    regions.backward(torch.ones_like(regions))


@torch.no_grad()
def read_and_write(features: Tensor, labels: Tensor) -> None:
    """The least that any pooling does: read all features once, write all of a new gradient."""
    features.sum()
    features.grad = torch.full_like(features, 0.5)


def seconds(function: Callable, features: Tensor, labels: Tensor) -> float:
    """One run, with the gradient freed before."""
    features.grad = None
    if features.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    function(features, labels)
    if features.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(features: Tensor, labels: Tensor) -> int:
    """Most bytes that forward and backward hold at a time, the gradient included."""
    features.grad = None
    if features.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ours(features, labels)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        ours(features, labels)
    events = recorded.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shape", nargs=4, type=int, default=[4, 512, 128, 128])
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = make_inputs(device, tuple(arguments.shape))
    names = {"read and write": read_and_write, "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in names}
    for function in names.values():
        seconds(function, *inputs)
    for _ in range(arguments.repeats):
        for name, function in names.items():
            times[name].append(seconds(function, *inputs))
    medians = {name: statistics.median(values) for name, values in times.items()}
    medians["loop"] = statistics.median(seconds(loop, *inputs) for _ in range(3))
    beyond = (peak_bytes(*inputs) - inputs[0].numel() * inputs[0].element_size()) / 1e6
    figures = {
        "shape": arguments.shape,
        "device": device,
        "threads": torch.get_num_threads(),
        "milliseconds": {name: 1e3 * value for name, value in medians.items()},
        "ours / read and write": medians["ours"] / medians["read and write"],
        "loop / ours": medians["loop"] / medians["ours"],
        "megabytes beyond the gradient": beyond,
        "targets": {
            "ours / read and write": "at most 1.5",
            "loop / ours": "at least 20",
            "megabytes beyond the gradient": "at most 16",
        },
    }
    print(tabulate([[name, 1e3 * value] for name, value in medians.items()], headers=["", "ms"]))
    print(f"ours / read and write: {figures['ours / read and write']:.2f} (target at most 1.5)")
    print(f"loop / ours: {figures['loop / ours']:.1f} (target at least 20)")
    print(f"memory beyond the gradient: {beyond:.1f} MB (target at most 16)")
    save_result("region_pooling" + ("_gpu" if device == "cuda" else ""), figures)


if __name__ == "__main__":
    main()
