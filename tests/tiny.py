# SPDX-License-Identifier: Apache-2.0
"""The smallest data, config and model that still go through everything."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from longtail.config import load_config
from longtail.data.datasets import register_sem_seg

COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=np.uint8)
SIZE = 32


def write_stripes(folder: Path, count: int, *, size: int = SIZE, seed: int = 0) -> None:
    """Images of three coloured stripes with noise, and their labels; the last column is ignored."""
    generator = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        first, second = sorted(generator.choice(np.arange(4, size - 4), 2, replace=False))
        labels = np.zeros((size, size), dtype=np.uint8)
        labels[:, first:], labels[:, second:] = 1, 2
        noise = generator.integers(-30, 31, (size, size, 3))
        image = np.clip(COLORS[labels] + noise, 0, 255).astype(np.uint8)
        labels[:, -1] = 255
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{index}.png")


def register_stripes(name: str, folder: Path, count: int = 4, **options: int) -> str:
    """Write such images and register them under ``name``."""
    write_stripes(folder, count, **options)
    classes = ["red", "green", "blue"]
    register_sem_seg(name, folder / "images", folder / "labels", classes)
    return name


TINY = """\
_BASE_: {base}
MODEL:
  WEIGHTS: ""
  DEVICE: cpu
  TIMM: {{NAME: test_efficientnet, OUTPUT_STRIDE: 32, PRETRAINED: ""}}
  SEM_SEG_HEAD:
    NAME: FCNHead
    NUM_CLASSES: 3
    CONVS_DIM: 8
    AUXILIARY: {{CONVS_DIM: 8}}
INPUT:
  MIN_SIZE_TRAIN: [32]
  MAX_SIZE_TRAIN: 64
  MIN_SIZE_TEST: 32
  MAX_SIZE_TEST: 64
  CROP: {{SIZE: [32, 32]}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 4, MAX_ITER: 3, BASE_LR: 0.05}}
SEED: 1
"""


def tiny_config_file(folder: Path) -> Path:
    """A config file with a small model on a CPU; data sets and OUTPUT_DIR are to be added."""
    path = folder / "tiny.yaml"
    base = Path(__file__).resolve().parents[1] / "configs" / "Base-SemSeg-R50c.yaml"
    path.write_text(TINY.format(base=base), encoding="utf-8")
    return path


def tiny_config(folder: Path, overrides: tuple | list = ()) -> CfgNode:
    """That config, read, with pairs of keys and values replaced."""
    options = ["OUTPUT_DIR", str(folder / "output"), *overrides]
    return load_config(str(tiny_config_file(folder)), options)


def uneven_pixels(num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (4, 3, 8, 8) and labels (4, 32, 32), 0..K-1 or 255.

    The images have very different numbers of regions and valid pixels; the last has none.
    """
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator)
    targets = torch.zeros(4, 32, 32, dtype=torch.long)
    targets[1] = torch.randint(0, num_classes, (32, 32), generator=generator)
    targets[2, :, 16:] = 3
    targets[2, 10:] = 255
    targets[3] = 255
    return features, targets
