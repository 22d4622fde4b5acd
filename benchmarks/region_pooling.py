# SPDX-License-Identifier: Apache-2.0
"""Region pooling: time against reading the features and writing their gradient, and memory.

    [OMP_NUM_THREADS=2] OMP_WAIT_POLICY=passive python benchmarks/region_pooling.py

For each type of features, memory layout and downsampling of the labels. All times are medians of
alternating runs in one process, on fresh gradients: on a CPU processor time, so that other work on
the machine counts little.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from common import save_result
from region_rebalance.functional import pool_regions
from tabulate import tabulate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

CLASSES_IN_IMAGE = 16
NUM_CLASSES = 150
LABEL_STRIDE = 4
# Type, memory layout and downsampling of labels -> the most that ours / read and write may be.
TARGETS = {
    ("float32", "contiguous_format", "nearest"): 1.5,
    ("float32", "channels_last", "nearest"): 1.5,
    ("float32", "contiguous_format", "area"): 2,
    ("bfloat16", "contiguous_format", "nearest"): 3,
    ("bfloat16", "channels_last", "nearest"): 3,
    ("float16", "contiguous_format", "nearest"): 3,
    ("float16", "channels_last", "nearest"): 3,
}


def make_inputs(device: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Random features, and labels of four times their size, in blocks, with 16 classes an image."""
    N, _, H, W = shape
    generator = torch.Generator().manual_seed(0)
    labels = torch.empty(N, LABEL_STRIDE * H, LABEL_STRIDE * W, dtype=torch.long)
    for n in range(N):
        present = torch.randperm(NUM_CLASSES, generator=generator)[:CLASSES_IN_IMAGE]
        blocks = present[torch.randint(0, CLASSES_IN_IMAGE, (H // 8, W // 8), generator=generator)]
        side = 8 * LABEL_STRIDE
        labels[n] = blocks.repeat_interleave(side, 0).repeat_interleave(side, 1)
    features = torch.randn(shape, generator=generator)
    return features.to(device), labels.to(device)


def ours(features: Tensor, labels: Tensor, downsampling: str = "nearest") -> None:
    """Forward and backward of the pooling."""
    regions, _ = pool_regions(features, labels, NUM_CLASSES, downsampling=downsampling)
    regions.backward(torch.ones_like(regions))


def loop(features: Tensor, labels: Tensor) -> None:
    """Forward and backward of the plain definition, a mask for each image and class."""
    regions = []
    labels = labels[:, ::LABEL_STRIDE, ::LABEL_STRIDE]
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
    clock = time.perf_counter if features.is_cuda else time.process_time
    start = clock()
    function(features, labels)
    if features.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def peak_bytes(function: Callable, features: Tensor, labels: Tensor) -> int:
    """Most bytes that forward and backward hold at a time, the gradient included."""
    features.grad = None
    if features.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function(features, labels)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function(features, labels)
    events = recorded.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def measure(features: Tensor, labels: Tensor, downsampling: str, repeats: int) -> dict[str, float]:
    """Medians in milliseconds, their ratio, and the memory beyond the gradient."""
    pool = partial(ours, downsampling=downsampling)
    functions = {"read and write": read_and_write, "ours": pool}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        seconds(function, features, labels)
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(1e3 * seconds(function, features, labels))
    medians = {f"{name}, ms": statistics.median(values) for name, values in times.items()}
    beyond = peak_bytes(pool, features, labels) - features.nbytes
    ratio = medians["ours, ms"] / medians["read and write, ms"]
    return {**medians, "ours / read and write": ratio, "megabytes beyond": beyond / 1e6}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shape", nargs=4, type=int, default=[4, 512, 128, 128])
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, labels = make_inputs(device, tuple(arguments.shape))
    rows = []
    for (dtype, layout, downsampling), target in TARGETS.items():
        typed = features.to(getattr(torch, dtype))
        typed = typed.contiguous(memory_format=getattr(torch, layout)).clone().requires_grad_()
        names = {"type": dtype, "layout": layout, "labels": downsampling}
        figures = measure(typed, labels, downsampling, arguments.repeats)
        rows.append({**names, **figures, "at most": target})
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    features.requires_grad_()
    plain = 1e3 * statistics.median(seconds(loop, features, labels) for _ in range(3))
    print(f"the plain loop in float32: {plain / rows[0]['ours, ms']:.1f} times ours")
    figures = {
        "shape": arguments.shape,
        "device": device,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "loop / ours": plain / rows[0]["ours, ms"],
        "targets": {
            "ours / read and write": "at most what each row says",
            "loop / ours": "at least 20",
            "megabytes beyond": "at most 16",
        },
    }
    threads = f"_{figures['threads']}_threads" if figures["threads"] > 1 else ""
    save_result("region_pooling" + ("_gpu" if device == "cuda" else threads), figures)


if __name__ == "__main__":
    main()
