# SPDX-License-Identifier: Apache-2.0
"""A tiny data set, model and saved predictions of every task, for the commands that draw."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.engine import Trainer
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import classification_config, register_colors
from tests.tiny_detection import detector_config, register_rectangles

# Name of the data set, how it is made, the config, and what its evaluator writes.
TASKS = {
    "sem_seg": (register_stripes, tiny_config, "sem_seg_predictions.json"),
    "objects": (register_rectangles, detector_config, "lvis_instances_results.json"),
    "images": (register_colors, classification_config, "classification_predictions.json"),
}


@dataclass
class Pictured:
    """What pictures are made of."""

    dataset: str
    config: Path
    weights: Path
    saved: Path

    def model(self, name: str = "x") -> list[str]:
        return ["--model", name, str(self.config), str(self.weights)]

    def predictions(self, name: str = "x") -> list[str]:
        return ["--dataset", self.dataset, "--predictions", name, str(self.saved)]


@contextmanager
def pictured(task: str, folder: Path) -> Iterator[Pictured]:
    """A data set of the task, registered within the context, and a model with random weights."""
    register, config, saved = TASKS[task]
    dataset = f"test_pictured_{task}"
    options = ["DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (dataset,)]
    options += ["TEST.SEM_SEG.WRITE_PREDICTIONS", True, "TEST.LVIS.KEEP_ALL_DETECTIONS", True]
    options += ["TEST.CLASSIFICATION.WRITE_PREDICTIONS", True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "statistics"))
        register(dataset, folder / "data")
        cfg = config(folder, options)
        (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        torch.manual_seed(3)
        model = Trainer.build_model(cfg)
        torch.save({"model": model.state_dict()}, folder / "weights.pth")
        Trainer.test(cfg, model.eval())
        results = folder / "output" / "inference" / dataset / saved
        yield Pictured(dataset, folder / "config.yaml", folder / "weights.pth", results)
    DatasetCatalog.remove(dataset)
    MetadataCatalog.remove(dataset)


def read_pictures(folder: Path) -> dict[str, np.ndarray]:
    """The pictures in a folder by their stems, without the contact sheet."""
    files = (path for path in sorted(folder.glob("*.png")) if path.stem != "contact_sheet")
    return {path.stem: np.asarray(Image.open(path)) for path in files}
