# SPDX-License-Identifier: Apache-2.0
"""What the region branch adds to a DeepLabV3+ training step: time and memory.

    python benchmarks/branch_cost.py

The branch's share is its own time, forward and backward, over that of the whole step, both inside
the same steps: a difference of two noisy totals could not show one percent.
"""

import argparse
import statistics
import time

import torch
from common import ROOT, save_result
from region_rebalance.head import RegionRebalanceHead

from longtail.config import load_config
from longtail.engine import Trainer

CLASSES_IN_IMAGE = 16


def make_batch(images: int, size: int, num_classes: int) -> list[dict]:
    """Random images; labels of 32x32 blocks with 16 classes in every image."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(images):
        present = torch.randperm(num_classes, generator=generator)[:CLASSES_IN_IMAGE]
        blocks = present[
            torch.randint(
                0, CLASSES_IN_IMAGE, (-(-size // 32), -(-size // 32)), generator=generator
            )
        ]
        labels = blocks.repeat_interleave(32, 0).repeat_interleave(32, 1)[:size, :size]
        image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "sem_seg": labels})
    return batch


def now() -> float:
    """Seconds, after all work on a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def branch_seconds(
    head: RegionRebalanceHead, features: torch.Tensor, targets: torch.Tensor
) -> float:
    """Forward and backward of the branch alone, down to the gradient of the pixel features."""
    features = features.detach().requires_grad_()
    start = now()
    head.region_loss(features, targets).backward()
    return now() - start


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cfg = load_config(
        str(ROOT / "configs/ADE20K/deeplabv3plus_R_50c_160k_rr.yaml"), ["MODEL.WEIGHTS", ""]
    )
    model = Trainer.build_model(cfg).train()
    head = model.sem_seg_head
    batch = make_batch(arguments.images, arguments.size, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    targets = torch.stack([record["sem_seg"] for record in batch]).to(model.device)
    captured: list[torch.Tensor] = []
    head.base_head.predictor.register_forward_pre_hook(lambda _, x: captured.append(x[0]))
    steps, branches = [], []
    for repeat in range(arguments.repeats + 1):
        captured.clear()
        model.zero_grad(set_to_none=True)
        start = now()
        sum(model(batch).values()).backward()
        step = now() - start
        branch = branch_seconds(head, captured[0], targets)
        if repeat:  # the first warms up
            steps.append(step)
            branches.append(branch)
            print(f"step {step:.2f} s, branch {1e3 * branch:.1f} ms", flush=True)
    share = 100 * statistics.median(b / s for b, s in zip(branches, steps, strict=True))
    print(f"the branch takes {share:.2f} % of the step (target at most 1 %)")
    save_result(
        "branch_cost" + ("_gpu" if torch.cuda.is_available() else ""),
        {
            "model": "DeepLabV3+, ResNet-50c, 150 classes",
            "images": arguments.images,
            "size": arguments.size,
            "step with branch, median seconds": statistics.median(steps),
            "branch, median seconds": statistics.median(branches),
            "branch, percent of the step": share,
            "target": "at most 1 percent",
        },
    )


if __name__ == "__main__":
    main()
