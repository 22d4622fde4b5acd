# SPDX-License-Identifier: Apache-2.0
"""Folders of runs of small models of every task, as a training leaves them, without their data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.config import deployed_config, load_config
from longtail.engine import Trainer
from longtail.engine.checkpoint import Checkpointer
from tests.disalign.detectors import disturb, randomize
from tests.tiny import register_stripes, tiny_config
from tests.tiny_classification import classification_config, register_colors
from tests.tiny_detection import detector_config, register_rectangles

HEAD, ARCHITECTURE = "MODEL.SEM_SEG_HEAD.NAME", "MODEL.META_ARCHITECTURE"
BASE_HEAD = ["MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead"]
NAMES = ["red", "green", "blue"]
# Size of testing twice that of the images, so that the way back to their size is seen.
TEST_SIZE = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128]
CALIBRATED = ["MODEL.DISALIGN.BASE_HEAD_NAME", "FCNHead"]
# detectron2's predictor is what predictions are compared with; for detectors the key means nothing.
PILLOW = ["INPUT.RESIZE_FILTER", "pillow"]
# Name of a run -> its data, its config and what is replaced there.
RUNS = {
    "rr": (
        *(register_stripes, tiny_config),
        [HEAD, "RegionRebalanceHead", *BASE_HEAD, *TEST_SIZE, *PILLOW],
    ),
    "disalign": (
        *(register_stripes, tiny_config),
        [
            HEAD,
            "DisAlignSemSegHead",
            "MODEL.DISALIGN.BASE_HEAD_NAME",
            "FCNHead",
            *TEST_SIZE,
            *PILLOW,
        ],
    ),
    "masks": (register_rectangles, detector_config, TEST_SIZE),
    "boxes": (register_rectangles, detector_config, ["MODEL.MASK_ON", False, *TEST_SIZE]),
    "images": (
        *(register_colors, classification_config),
        [ARCHITECTURE, "DisAlignImageClassifier", "INPUT.CLASSIFICATION.TEST_RESIZE", 40],
    ),
}


def data_set(run: str) -> str:
    """The name of the data set that a run names."""
    return f"test_trained_{run}"


@contextmanager
def registered(run: str, folder: Path) -> Iterator[str]:
    """The data of a run, registered within the context."""
    name = data_set(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "statistics"))
        RUNS[run][0](name, folder / "data")
        try:
            yield name
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def spread(model: torch.nn.Module) -> None:
    """Give features and scores some spread, in place: those of a new network hardly differ."""
    images = 2 * torch.randn(8, 3, 64, 64).repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        for _ in range(10):
            model.backbone(images)
        for name, parameter in model.named_parameters():
            if name.endswith("predictor.weight"):
                parameter.add_(torch.randn_like(parameter))
            elif name.endswith("classifier.weight"):
                parameter.add_(0.1 * torch.randn_like(parameter))


def make_run(run: str, folder: Path) -> Path:
    """The folder of a run: its config and checkpoints with random weights; its data are gone."""
    _, config, options = RUNS[run]
    folder.mkdir()
    output = folder / "output"
    with registered(run, folder) as name:
        data = ["DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,)]
        # What a training starts from, and what no prediction may use.
        cfg = config(folder, [*data, "MODEL.WEIGHTS", "absent.pth", *options])
        torch.manual_seed(5)
        model = disturb(Trainer.build_model(cfg))
        if config is detector_config:
            randomize(model)
        else:
            spread(model)
        output.mkdir()
        (output / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        checkpointer = Checkpointer(model, str(output))
        checkpointer.class_names = NAMES
        checkpointer.save("model_0000002")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        checkpointer.save("model_final")
    return output


def plain_model(run: Path) -> torch.nn.Module:
    """The model of a run, with its weights loaded by torch's own means."""
    cfg = deployed_config(load_config(str(run / "config.yaml")))
    model = Trainer.build_model(cfg).eval()
    state = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert not model.load_state_dict(state, strict=False).missing_keys
    return model


def write_pictures(folder: Path, sizes: dict[str, tuple[int, int]], seed: int = 0) -> list[Path]:
    """Images of noise in blocks, of these heights and widths, by the name of their file."""
    generator = np.random.default_rng(seed)
    for name, (height, width) in sizes.items():
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).save(path)
    return [folder / name for name in sizes]
