# SPDX-License-Identifier: Apache-2.0
"""Training throughput and memory of every semantic segmentation architecture.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --models upernet_swin_T_160k --variants channels_last compile

Forward and backward passes on random images with the classes of ADE20K, random weights, no
optimizer. For each architecture, all measured in turn inside one process, so that what else the
machine does hits all of them alike:

- float32: the baseline's config as it is.
- each variant: the same with keys changed (see VARIANTS).
- mmsegmentation: its model of the same name in its own training step, float32, where it is
  installed (see mmseg_peers.py).
- region branch: its own time, forward and backward, as a share of the float32 step.

Ratios are of the medians over the repetitions. Memory is the peak of a process that runs nothing
but the step, less what it held with model and data.
"""

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch
from branch_cost import branch_seconds, make_batch, now
from common import ROOT, in_child, memory, save_result, start_memory
from detectron2.config import CfgNode
from mmseg_peers import build_peer
from tabulate import tabulate
from torch import nn

from longtail.config import load_config
from longtail.engine import Trainer

ON_GPU = torch.cuda.is_available()
MODELS = [
    "fcn_R_50c_160k",
    "pspnet_R_50c_160k",
    "upernet_R_50c_160k",
    "deeplabv3plus_R_50c_160k",
    "deeplabv3plus_S_101_160k",
    "ocrnet_HRNet_W18_160k",
    "ocrnet_HRNet_W48_160k",
    "upernet_swin_T_160k",
    "upernet_swin_B_22k_160k",
    "upernet_beit_L_160k",
]
# Config keys, and whether the step runs under bfloat16 autocast (SOLVER.AMP.DTYPE bfloat16).
VARIANTS: dict[str, tuple[list, bool]] = {
    "channels_last": (["MODEL.CHANNELS_LAST", True], False),
    "bfloat16": ([], True),
    "channels_last_bfloat16": (["MODEL.CHANNELS_LAST", True], True),
    "compile": (["MODEL.COMPILE", True], False),
}
FLOAT32, PEER, BRANCH = "float32", "mmsegmentation", "region branch"
TARGETS = {
    "times mmsegmentation's throughput, on a GPU": ">= 1.3",
    "region branch, percent of a step": "< 1",
}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="configs in configs/ADE20K")
    parser.add_argument(
        "--variants", nargs="*", default=[v for v in VARIANTS if ON_GPU or v != "compile"]
    )
    parser.add_argument("--images", type=int, default=8 if ON_GPU else 2)
    parser.add_argument("--size", type=int, default=512 if ON_GPU else 256)
    parser.add_argument("--repeats", type=int, default=10 if ON_GPU else 5)
    parser.add_argument("--figures", nargs="+", default=["speed", "memory"])
    parser.add_argument("--result", default="throughput_gpu" if ON_GPU else "throughput")
    return parser.parse_args()


def configure(model: str, batch: list[dict], keys: list | None = None) -> CfgNode:
    """The config of an architecture, with random weights and no statistics of ADE20K."""
    options = ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "DATASETS.TRAIN", "()"]
    # mmsegmentation's BEiT takes images of this size alone.
    options += ["MODEL.TIMM.IMAGE_SIZE", batch[0]["image"].shape[1]]
    return load_config(str(ROOT / "configs/ADE20K" / f"{model}.yaml"), [*options, *(keys or [])])


def build(cfg: CfgNode) -> nn.Module:
    """Our model in training mode."""
    torch.manual_seed(0)
    return Trainer.build_model(cfg).train()


def our_step(model: nn.Module, batch: list[dict], bfloat16: bool) -> Callable[[], None]:
    """Forward and backward of our model."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss = sum(model(batch).values())
        loss.backward()

    return step


def peer_step(model: str, batch: list[dict]) -> Callable[[], None]:
    """Forward and backward of mmsegmentation's model, from images that are normalised already."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = configure(model, batch)
    peer = build_peer(cfg).to(cfg.MODEL.DEVICE).train()
    images = torch.stack([record["image"] for record in batch]).to(cfg.MODEL.DEVICE) / 128 - 1
    samples = []
    for record in batch:
        labels = PixelData(data=record["sem_seg"][None].to(cfg.MODEL.DEVICE))
        size = {"img_shape": images.shape[2:], "pad_shape": images.shape[2:]}
        samples.append(SegDataSample(gt_sem_seg=labels, metainfo=size))

    def step() -> None:
        peer.zero_grad(set_to_none=True)
        losses = peer.loss(images, samples)
        sum(value for key, value in losses.items() if "loss" in key).backward()

    return step


def make_step(model: str, kind: str, batch: list[dict]) -> Callable[[], None]:
    """One kind of step of an architecture."""
    if kind == PEER:
        return peer_step(model, batch)
    keys, bfloat16 = VARIANTS.get(kind, ([], False))
    return our_step(build(configure(model, batch, keys)), batch, bfloat16)


def make_branch(model: str, batch: list[dict]) -> Callable[[], None]:
    """Forward and backward of the region branch alone, on the features of one step."""
    base = configure(model, batch).MODEL.SEM_SEG_HEAD.NAME
    keys = ["MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"]
    keys += ["MODEL.REGION_REBALANCE.BASE_HEAD_NAME", base]
    # Which prior the balanced softmax adds makes no difference to its cost.
    keys += ["MODEL.REGION_REBALANCE.BALANCED", False]
    network = build(configure(model, batch, keys))
    head, captured = network.sem_seg_head, []
    hook = head.base_head.predictor.register_forward_pre_hook(lambda _, x: captured.append(x[0]))
    network(batch)
    hook.remove()
    targets = torch.stack([record["sem_seg"] for record in batch]).to(network.device)
    return lambda: branch_seconds(head, captured[0], targets)


def seconds(step: Callable[[], None]) -> float:
    """The time of one call."""
    start = now()
    step()
    return now() - start


def make_steps(
    model: str, kinds: list[str], images: int, size: int
) -> dict[str, Callable[[], None]]:
    """Each kind of step of an architecture, the region branch's included, on the same batch."""
    batch = make_batch(images, size, 150)
    return {
        kind: make_branch(model, batch) if kind == BRANCH else make_step(model, kind, batch)
        for kind in kinds
    }


def times(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every repetition of each step; all of them in turn, after two warm-ups."""
    for step in [*steps.values(), *steps.values()]:
        step()
    found: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(repeats):
        for kind, step in steps.items():
            found[kind].append(seconds(step))
    return found


def peak_memory(model: str, kind: str, images: int, size: int) -> float:
    """MB at most during a step, above what model and data take."""
    step = make_step(model, kind, make_batch(images, size, 150))
    if ON_GPU:
        step()
        return peak_on_gpu(step)
    # The first step: after it the allocator would hold on to what a second one needs.
    held = start_memory()
    step()
    return memory("VmHWM") - held


def peak_on_gpu(step: Callable[[], None]) -> float:
    """MB at most during a step that is not the first, above what is held before."""
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def speed(
    model: str, kinds: list[str], images: int, size: int, repeats: int
) -> dict[str, list[float]]:
    """The seconds of each kind of step, all in one process."""
    return times(make_steps(model, kinds, images, size), repeats)


def measure(model: str, kinds: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one architecture; each rotation is a process of its own."""
    shape = arguments.images, arguments.size
    found: dict[str, Any] = {}
    if "memory" in arguments.figures:
        found["memory, MB"] = {
            kind: in_child(peak_memory, model, kind, *shape)
            for kind in (FLOAT32, *kinds)
            if kind != BRANCH
        }
        print(f"{model}: {found}", flush=True)
    for kind in kinds if "speed" in arguments.figures else []:
        # Two models at a time: the largest would not all fit in memory together.
        rotation = in_child(speed, model, [FLOAT32, kind], *shape, arguments.repeats)
        medians = {key: statistics.median(value) for key, value in rotation.items()}
        if kind == BRANCH:
            found["region branch, percent of a step"] = 100 * medians[kind] / medians[FLOAT32]
            continue
        found[kind] = {
            "images per second": arguments.images / medians[kind],
            "float32's images per second, in turn": arguments.images / medians[FLOAT32],
            "times float32's throughput": medians[FLOAT32] / medians[kind],
        }
        ratio = medians[FLOAT32] / medians[kind]
        print(f"{model}, {kind}: {ratio:.2f} times float32's throughput", flush=True)
    return found


def main() -> None:
    """Measure, print, save after every architecture."""
    arguments = parse_arguments()
    for variant in arguments.variants:
        if variant not in VARIANTS:
            raise SystemExit(f"error: --variants: {variant!r} is none of {', '.join(VARIANTS)}")
    kinds = [BRANCH, *arguments.variants]
    if importlib.util.find_spec("mmseg"):
        kinds.insert(1, PEER)
    results: dict[str, Any] = {}
    for model in arguments.models:
        results[model] = measure(model, kinds, arguments)
        save_result(
            arguments.result,
            {
                "images": arguments.images,
                "size": arguments.size,
                "targets": TARGETS,
                "architectures": results,
            },
        )
    if "speed" not in arguments.figures:
        return
    columns = [kind for kind in kinds if kind != BRANCH]
    rows = [
        [
            model,
            *(found[kind]["times float32's throughput"] for kind in columns),
            found["region branch, percent of a step"],
        ]
        for model, found in results.items()
    ]
    print(tabulate(rows, ["throughput / float32", *columns, "branch, %"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
