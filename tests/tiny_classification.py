# SPDX-License-Identifier: Apache-2.0
"""A tiny long-tailed set of images of one class each, and a small model for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.config import load_config

CLASSES = ("red", "green", "blue")
COLORS = np.array([[190, 60, 60], [60, 190, 60], [60, 60, 190]])
SIZE = 32
# Training images of each class: one of the groups many, medium and few would be too many files.
TRAIN_COUNTS = (8, 4, 2)
TEST_COUNTS = (3, 3, 3)


def register_colors(
    name: str,
    folder: Path,
    counts: Sequence[int] = TRAIN_COUNTS,
    *,
    seed: int = 0,
    training_set: str | None = None,
) -> str:
    """Write noisy images, whose class is their color, and register them under ``name``.

    Args:
        name: to be taken out of both catalogs after the test.
        folder: of the images.
        counts: (3,) images of each class.
        seed: of the noise.
        training_set: of the metadata; by default ``name`` itself.
    """
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for label in np.repeat(np.arange(len(counts)), counts).tolist():
        noise = generator.integers(-60, 61, (SIZE, SIZE, 3))
        image = np.clip(COLORS[label] + noise, 0, 255).astype(np.uint8)
        path = folder / f"{len(records)}.png"
        Image.fromarray(image).save(path)
        records.append({"file_name": str(path), "image_id": len(records), "label": label})
    DatasetCatalog.register(name, lambda: [dict(record) for record in records])
    MetadataCatalog.get(name).set(
        thing_classes=list(CLASSES),
        evaluator_type="classification",
        training_set=training_set or name,
        load_labels=lambda: [record["label"] for record in records],
    )
    return name


def unregister(*names: str) -> None:
    """Take data sets out of both catalogs."""
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


TINY = """\
MODEL:
  META_ARCHITECTURE: ImageClassifier
  WEIGHTS: ""
  DEVICE: cpu
  BACKBONE: {NAME: TimmClassificationBackbone}
  TIMM: {NAME: test_resnet}
  CLASSIFIER: {NUM_CLASSES: 3}
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
INPUT:
  FORMAT: RGB
  CLASSIFICATION: {SIZE: 32, CROP_SCALE: [0.5, 1.0], TEST_RESIZE: 32}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 4, MAX_ITER: 3, BASE_LR: 0.05, WARMUP_ITERS: 0}
SEED: 1
VERSION: 2
"""


def classification_config_file(folder: Path) -> Path:
    """A config file with a small model on a CPU; data sets and OUTPUT_DIR are to be added."""
    path = folder / "tiny_classification.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def classification_config(folder: Path, overrides: tuple | list = ()) -> CfgNode:
    """That config, read, with pairs of keys and values replaced."""
    options = ["OUTPUT_DIR", str(folder / "output"), *overrides]
    return load_config(str(classification_config_file(folder)), options)


def classification_inputs(seed: int = 0, count: int = 6) -> list[dict]:
    """What the mapper gives: ``count`` random images, with labels 0, 1, 2, 0, ..."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, SIZE, SIZE)
    return [
        {
            "image": torch.randint(256, shape, dtype=torch.uint8, generator=generator),
            "label": i % len(CLASSES),
            "file_name": f"{i}.png",
            "image_id": i,
        }
        for i in range(count)
    ]
