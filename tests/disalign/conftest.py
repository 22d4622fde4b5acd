# SPDX-License-Identifier: Apache-2.0
"""A small first stage of every kind, and data sets that exist for one module."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.engine import Trainer
from longtail.engine.checkpoint import Checkpointer
from tests.disalign.detectors import KINDS, randomize
from tests.tiny_detection import detector_config, register_rectangles

NAME = "disalign_rectangles"


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory):
    """A registered data set of six images: 6 red, 3 green, 1 blue rectangle."""
    folder = tmp_path_factory.mktemp("rectangles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTAIL_CACHE", str(folder / "cache"))
        yield register_rectangles(NAME, folder, 6)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def configure(tmp_path, rectangles):
    """A function that gives the config of a first stage of a kind, with values replaced."""

    def get(kind, *overrides):
        names = ["DATASETS.TRAIN", (rectangles,), "DATASETS.TEST", (rectangles,)]
        return detector_config(tmp_path, [*names, *KINDS[kind], *overrides])

    return get


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """The folder of the first stages' checkpoints, see ``first_stage``."""
    return tmp_path_factory.mktemp("first_stages")


@pytest.fixture
def first_stage(configure, checkpoints):
    """A function that gives the checkpoint of a first stage of a kind.

    Its weights are random, but no start: scores, boxes and statistics differ from place to place.
    """

    def get(kind):
        path = checkpoints / f"{kind}.pth"
        if not path.exists():
            torch.manual_seed(7)
            model = Trainer.build_model(configure(kind))
            randomize(model)
            Checkpointer(model, str(checkpoints)).save(kind)
        return str(path)

    return get


@pytest.fixture
def second_stage(configure, first_stage):
    """A function that gives the config of a second stage of a kind, with values replaced."""

    def get(kind, *overrides):
        weights = ["MODEL.META_ARCHITECTURE", "DisAlignRCNN", "MODEL.WEIGHTS", first_stage(kind)]
        return configure(kind, *weights, *overrides)

    return get
