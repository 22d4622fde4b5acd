# SPDX-License-Identifier: Apache-2.0
"""What methods cost when a model is used: DisAlign's calibration a forward, post hoc methods once.

    python benchmarks/calibration_cost.py

The calibration (with confidence) is timed twice: as the ratio of forwards with and without it, in
turns with the same weights; and by itself, inside those forwards, as its share of them. The ratio
is what counts, but a difference of two noisy totals cannot show a tenth of a percent. All times are
CPU time, which other work on the machine disturbs less.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import ROOT, save_result
from detectron2.config import CfgNode
from disalign.calibration import AdaptiveCalibration
from torch import nn

from longtail.config import deployed_config, load_config
from longtail.data.datasets.synthetic import LT_NAME, register_synthetic_lt
from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.synthetic import write_classification_dataset
from longtail.engine import Trainer
from longtail.engine.deployment.post_hoc import POST_HOC_REGISTRY, apply_post_hoc

TARGET = "at most 1 percent"
# Config of the second stage, and the META_ARCHITECTURE without it.
IMAGES = ("configs/ImageNet-LT/R_50_disalign.yaml", "ImageClassifier")
BOXES = ("configs/LVISv1/mask_rcnn_R_50_FPN_disalign.yaml", "GeneralizedRCNN")


def seconds(function: Callable, *arguments: object) -> float:
    """CPU time of one call."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


class Stopwatch:
    """The seconds that the calibration of a model takes in one forward, and the rows it gets."""

    def __init__(self, model: nn.Module) -> None:
        """Hook every calibration of ``model``."""
        self.total, self.rows = 0.0, 0
        for module in model.modules():
            if isinstance(module, AdaptiveCalibration):
                module.register_forward_pre_hook(self._start)
                module.register_forward_hook(self._stop)

    def _start(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.rows = len(inputs[0])
        self.started = time.process_time()

    def _stop(self, *_: object) -> None:
        self.total += time.process_time() - self.started


def calibration_cost(
    config: str, baseline: str, batch: list[dict], repeats: int, run: Callable
) -> dict[str, object]:
    """Forwards with and without calibration, in turns.

    Args:
        config: a second stage's.
        baseline: MODEL.META_ARCHITECTURE without the calibration.
        batch: the input.
        repeats: forwards of each.
        run: ``run(model, batch)``, one forward.
    """
    torch.manual_seed(0)
    cfg = deployed_config(load_config(str(ROOT / config), ["MODEL.DEVICE", "cpu"]))
    without = Trainer.build_model(changed(cfg, baseline)).eval()
    if hasattr(without, "proposal_generator"):
        # Random weights would stretch all boxes over the image, and leave one RoI of a thousand.
        nn.init.zeros_(without.proposal_generator.rpn_head.anchor_deltas.weight)
    model = Trainer.build_model(cfg).eval()
    model.load_state_dict(without.state_dict(), strict=False)
    watch = Stopwatch(model)
    times: dict[str, list[float]] = {"with": [], "without": [], "calibration": []}
    with torch.no_grad():
        for repeat in range(-1, repeats):
            # Either is first as often as the other.
            order = [("with", model), ("without", without)]
            watch.total = 0.0
            taken = {name: seconds(run, m, batch) for name, m in order[:: 1 - 2 * (repeat % 2)]}
            if repeat >= 0:  # the first warms up
                for name, value in {**taken, "calibration": watch.total}.items():
                    times[name].append(value)
    medians = {name: statistics.median(values) for name, values in times.items()}
    shares = [c / w for c, w in zip(times["calibration"], times["without"], strict=True)]
    # Of neighbors: what else the machine does changes over a run.
    ratios = [a / b for a, b in zip(times["with"], times["without"], strict=True)]
    figures = {
        "config": config,
        "forwards of each": repeats,
        "images or RoIs of a forward": watch.rows,
        **{f"{name}, median CPU seconds": value for name, value in medians.items()},
        "with / without, quartiles": statistics.quantiles(ratios, n=4),
        "calibration itself, percent of the forward": 100 * statistics.median(shares),
        "target": TARGET,
    }
    print(config, *(f"  {name}: {value}" for name, value in figures.items()), sep="\n", flush=True)
    return figures


def changed(cfg: CfgNode, architecture: str) -> CfgNode:
    """The config with another META_ARCHITECTURE."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = architecture
    return cfg


def random_batch(images: int, height: int, width: int) -> list[dict]:
    """Noise."""
    generator = torch.Generator().manual_seed(0)
    shape = (images, 3, height, width)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return [{"image": image} for image in pixels]


def post_hoc_seconds(folder: str, repeats: int) -> dict[str, object]:
    """Every post hoc method on a model of the generated images, reading and all."""
    root = Path(folder)
    write_classification_dataset(root / LT_NAME, max_images=400)
    register_synthetic_lt(str(root))
    config = str(ROOT / "configs/synthetic-LT/linear.yaml")
    cfg = load_config(config, ["DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"])
    model = Trainer.build_model(deployed_config(cfg))
    taken = {}
    for method, _ in POST_HOC_REGISTRY:
        cfg.MODEL.POST_HOC.METHOD = method
        # Class counts are read from their list and kept: the first call is left out.
        apply_post_hoc(cfg, copy.deepcopy(model))
        runs = [seconds(apply_post_hoc, cfg, copy.deepcopy(model)) for _ in range(repeats)]
        taken[method] = statistics.median(runs)
        print(f"{method}: {taken[method]:.3f} s", flush=True)
    images = int(get_class_stats(cfg.DATASETS.TRAIN).image_count.sum())
    name = os.path.relpath(config, ROOT)
    return {"config": name, "images": images, "median CPU seconds": taken}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    images = calibration_cost(
        *IMAGES, random_batch(8, 224, 224), arguments.repeats, lambda model, batch: model(batch)
    )
    boxes = calibration_cost(
        *BOXES,
        random_batch(1, 640, 960),
        arguments.repeats // 4,
        # Without pasting the masks, which depends on how many there are.
        lambda model, batch: model.inference(batch, do_postprocess=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        post_hoc = post_hoc_seconds(folder, 3)
    save_result(
        "calibration_cost",
        {
            "images, ResNet-50, 8 of 224 x 224, 1000 classes": images,
            "boxes, Mask R-CNN R50-FPN, 640 x 960, 1203 classes": boxes,
            "post hoc": post_hoc,
            "torch threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
