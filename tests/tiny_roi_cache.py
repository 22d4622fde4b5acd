# SPDX-License-Identifier: Apache-2.0
"""A second stage with random weights on six tiny images, for what concerns cached RoI features."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from disalign import roi_cache_index
from disalign.roi_cache_making import make_cache

from longtail.engine import Trainer
from tests.tiny_detection import CASCADE, detector_config, register_rectangles

NAME = "tiny_roi_cache_train"
NUM_IMAGES = 6


@contextmanager
def second_stage(folder: Path, *, cascade: bool = False) -> Iterator[list]:
    """The options of a second stage, whose data and weights exist within the context."""
    options = ["DATASETS.TRAIN", (NAME,), "DATASETS.TEST", ()]
    options += CASCADE if cascade else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "statistics"))
        register_rectangles(NAME, folder / "data", NUM_IMAGES)
        torch.manual_seed(0)
        model = Trainer.build_model(detector_config(folder, options))
        weights = folder / "stage1.pth"
        torch.save({"model": model.state_dict()}, weights)
        yield [*options, "MODEL.META_ARCHITECTURE", "DisAlignRCNN", "MODEL.WEIGHTS", str(weights)]
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def write_cache(cfg: CfgNode, folder: Path, epochs: int = 2, images_per_shard: int = 4) -> Path:
    """Make the cache, by default two shards an epoch, of four images and of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roi_cache_index, "IMAGES_PER_SHARD", images_per_shard)
        make_cache(cfg, folder, epochs)
    return folder
