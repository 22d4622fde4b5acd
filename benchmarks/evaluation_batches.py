# SPDX-License-Identifier: Apache-2.0
"""Does testing several images in one forward pass pay on a CPU? And evaluating beside the model?

    python benchmarks/evaluation_batches.py

Images a second of CPU time, batches of 1, 2 and 4 in turns, random weights and images of one size.
Of segmentation also the time of reading and of evaluating an image: what a second thread or more
workers could hide at most.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import save_result
from optimizer_step import interleaved
from PIL import Image
from torch import nn

from longtail.config import load_config
from longtail.data.datasets import register_sem_seg
from longtail.engine import Trainer
from longtail.engine.inference.build import build_inference
from longtail.engine.training.data_sets import build_mapper
from longtail.evaluation import SemSegEvaluator

SEM_SEG = "quickstart/deeplabv3plus_lite0.yaml"
DETECTION = "LVIS-Synthetic/mask_rcnn_R_50_FPN.yaml"
CLASSIFICATION = "CIFAR100-LT/linear.yaml"
BATCHES = (1, 2, 4)
CASES = [
    (SEM_SEG, 160, 160),
    (SEM_SEG, 512, 683),
    (DETECTION, 320, 320),
    (CLASSIFICATION, 32, 32),
]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (after one more)")
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for config, height, width in CASES:
        name = f"{config}, {height} x {width}"
        figures[name] = batches(config, height, width, options.rounds)
        print(name, figures[name], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures["parts of an image's test (ms)"] = parts(Path(folder), 512, 683, options.rounds)
    print(figures["parts of an image's test (ms)"])
    if not options.no_save:
        save_result("evaluation_batches", {**figures, "threads": torch.get_num_threads()})


def opened(config: str, *keys: object) -> tuple:
    """The config with random weights, and the model as it is tested."""
    keys = ("MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "MODEL.DEVICE", "cpu", *keys)
    cfg = load_config(config, list(keys))
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    return cfg, build_inference(cfg, model, class_maps=True, unpasted=True).eval()


@torch.no_grad()
def batches(config: str, height: int, width: int, rounds: int) -> dict[str, float]:
    """Images a second by the size of the batch."""
    _, model = opened(config)
    pixels = torch.randint(0, 256, (max(BATCHES), 3, height, width), dtype=torch.uint8)
    records = [{"image": image, "height": height, "width": width} for image in pixels]
    steps = {f"{size} at a time": lambda size=size: run(model, records, size) for size in BATCHES}
    times = interleaved(steps, rounds)
    return {name: 1000 * len(records) / time for name, time in times.items()}


def run(model: nn.Module, records: list[dict], size: int) -> None:
    """Test the images, so many at a time."""
    for start in range(0, len(records), size):
        model(records[start : start + size])


@torch.no_grad()
def parts(folder: Path, height: int, width: int, rounds: int) -> dict[str, float]:
    """CPU time of reading an image, of the model, and of the evaluator, 150 classes."""
    generator = np.random.default_rng(0)
    for part, shape, end in (("images", (8, 8, 3), 256), ("labels", (8, 8), 150)):
        (folder / part).mkdir()
        small = Image.fromarray(generator.integers(0, end, shape, dtype=np.uint8))
        small.resize((width, height), Image.Resampling.NEAREST).save(folder / part / "0.png")
    names = [str(index) for index in range(150)]
    register_sem_seg("batches", folder / "images", folder / "labels", names)
    cfg, model = opened(SEM_SEG, "DATASETS.TEST", ("batches",), "INPUT.MIN_SIZE_TEST", height)
    head = build_inference(cfg, model.model, class_maps=True).eval()
    mapper = build_mapper(cfg, "batches", is_train=False)
    evaluator = SemSegEvaluator("batches", distributed=False)
    record = {
        "file_name": str(folder / "images" / "0.png"),
        "sem_seg_file_name": str(folder / "labels" / "0.png"),
        "height": height,
        "width": width,
    }
    inputs = [mapper(dict(record))]
    outputs = head(inputs)
    return interleaved(
        {
            "reading": lambda: mapper(dict(record)),
            "model": lambda: head(inputs),
            "evaluator": lambda: evaluator.process(inputs, outputs),
        },
        rounds,
    )


if __name__ == "__main__":
    main()
