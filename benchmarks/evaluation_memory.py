# SPDX-License-Identifier: Apache-2.0
"""Memory of semantic evaluation: does it grow with the images, and with their size?

    python benchmarks/evaluation_memory.py [--images 200 2000]

Each line is the peak of a fresh process that tests the quick start's model with random weights: on
single images with 150 classes, as a whole, in windows of 512 x 512, and at two scales with flips;
and on so many images of 160 x 160 (links to 50 generated ones, 24 classes). Of the single ones also
what lies beyond the libraries and the model, and its two parts: what the model's layers take alone,
up to the head's logits; and what the test takes beyond them, with layers that give random logits at
once: reading, enlarging, windows, arg max, metrics. The latter also in detectron2's way, which
enlarges the logits of all classes, by its model and its evaluator. The result is written after each
line.
"""

import argparse
import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import in_child, memory, save_result, start_memory
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset
from PIL import Image

from longtail.config import load_config
from longtail.data.datasets import register_sem_seg
from longtail.engine import Trainer

CONFIG = "quickstart/deeplabv3plus_lite0.yaml"
# Mode, size of the image, shorter side that the model reads.
LARGE = [
    ("whole", 1500, 2000, 512),
    ("whole", 3000, 4000, 512),
    ("whole", 1500, 2000, 1500),
    ("slide", 1500, 2000, 1500),
    ("scales 0.5 and 1, flips", 1500, 2000, 512),
    ("slide", 3000, 4000, 3000),
    ("whole", 3000, 4000, 3000),
]


def test_memory(folder: Path, classes: int, keys: list[object]) -> dict[str, float]:
    """Peak memory of this process in MB after a test of the folder's images."""
    cfg, model = open_model(folder, classes, keys)
    beyond = peak_beyond(lambda: test(cfg, model))
    return {"peak": memory("VmHWM"), "beyond the model": beyond}


def parts_of_memory(
    folder: Path, classes: int, keys: list[object], size: tuple[int, int], *, peer: bool
) -> dict[str, float]:
    """:func:`test_memory`, and its parts in MB; the layers see an image of this size."""
    parts = test_memory(folder, classes, keys)
    cfg, model = open_model(folder, classes, keys)
    inputs = [{"image": torch.zeros(3, *size, dtype=torch.uint8)}]
    with torch.no_grad():
        parts["the layers"] = peak_beyond(lambda: model.eval().logit_maps(inputs))
    stride = model.sem_seg_head.common_stride

    def logits(images: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(images), classes, *(side // stride for side in images.shape[2:]))

    model.backbone.forward = lambda images: images
    model.sem_seg_head.layers = logits
    parts["without the layers"] = peak_beyond(lambda: test(cfg, model))
    if peer:
        evaluator = SemSegEvaluator("measured", distributed=False)
        loader = Trainer.build_test_loader(cfg, "measured")
        key = "without the layers, detectron2's way"
        parts[key] = peak_beyond(lambda: inference_on_dataset(model, loader, evaluator))
    return parts


def test(cfg: CfgNode, model: torch.nn.Module) -> None:
    """Test as ``longtail train --eval-only`` does."""
    if cfg.TEST.AUG.ENABLED:
        Trainer.test_with_TTA(cfg, model)
    else:
        Trainer.test(cfg, model)


def peak_beyond(function: Callable[[], object]) -> float:
    """MB that this process holds at most in ``function``, beyond what it holds before."""
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be used again, uncounted
    before = start_memory()
    function()
    return memory("VmHWM") - before


def open_model(folder: Path, classes: int, keys: list[object]) -> tuple[CfgNode, torch.nn.Module]:
    """The config, and its model on the folder's images."""
    names = [str(index) for index in range(classes)]
    if "measured" not in DatasetCatalog:
        register_sem_seg("measured", folder / "images", folder / "labels", names)
    keys = ["DATASETS.TEST", ("measured",), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes, *keys]
    keys += ["MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "DATALOADER.NUM_WORKERS", 0]
    cfg = load_config(CONFIG, [*keys, "OUTPUT_DIR", str(folder / "output")])
    return cfg, Trainer.build_model(cfg)


def many(folder: Path, number: int) -> Path:
    """A data set of so many images, links to the generated ones."""
    scenes = folder / "scenes"
    if not scenes.is_dir():
        options = ["--num-train", "20", "--num-val", "50", "--size", "160", "--workers", "1"]
        options += ["--region-imbalance", "10"]
        command = [sys.executable, "-m", "longtail", "generate", "--output", str(scenes), *options]
        subprocess.run(command, check=True)
    target = folder / f"{number}_images"
    for part, source in (("images", "images"), ("labels", "annotations_detectron2")):
        (target / part).mkdir(parents=True, exist_ok=True)
        files = itertools.cycle(sorted((scenes / source / "validation").iterdir()))
        for index, file in zip(range(number), files):  # noqa: B905  (the other has no end)
            link = target / part / f"{index:06d}{file.suffix}"
            if not link.exists():
                os.link(file, link)
    return target


def large(folder: Path, height: int, width: int) -> Path:
    """A data set of one image."""
    generator = np.random.default_rng(0)
    target = folder / f"{height}x{width}"
    for part, shape, end in (("images", (6, 8, 3), 256), ("labels", (6, 8), 150)):
        (target / part).mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, end, shape, dtype=np.uint8)
        pixels = small.repeat(height // 6, axis=0).repeat(width // 8, axis=1)
        Image.fromarray(pixels).save(target / part / "0.png")
    return target


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--output", type=Path, default=Path("output/evaluation_memory"))
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, float]] = {}

    def report(name: str, measured: dict[str, float]) -> None:
        figures[name] = measured
        print(name, measured, flush=True)
        if not options.no_save:
            save_result("evaluation_memory", {"MB": figures})

    for mode, height, width, side in LARGE:
        keys = ["INPUT.MIN_SIZE_TEST", side, "INPUT.MAX_SIZE_TEST", 4000]
        if mode in ("whole", "slide"):
            keys += ["TEST.SEM_SEG.MODE", mode, "TEST.SEM_SEG.CROP_SIZE", [512, 512]]
            keys += ["TEST.SEM_SEG.STRIDE", [341, 341]]
        else:
            keys += ["TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", [0.5, 1.0]]
        # Of windows and copies one, the largest.
        size = (512, 512) if mode == "slide" else (side, side * width // height)
        # detectron2's way takes 14 GB for 12 megapixels that the model reads as they are.
        measure = partial(parts_of_memory, peer=mode == "whole" and side < 3000)
        name = f"{height} x {width}, 150 classes, shorter side {side}, {mode}"
        report(name, in_child(measure, large(folder, height, width), 150, keys, size))
    for number in options.images:
        measured = in_child(test_memory, many(folder, number), 24, [])
        report(f"{number} images of 160 x 160", measured)


if __name__ == "__main__":
    main()
