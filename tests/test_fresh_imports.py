# SPDX-License-Identifier: Apache-2.0
"""Every public builder works after its own package alone was imported, in a fresh interpreter.

A test process has imported everything: what only works after some other import passes there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config_file
from tests.tiny_classification import classification_config_file
from tests.tiny_detection import DETECTOR

# Each in a process of its own.
pytestmark = pytest.mark.slow

# What each script begins with comes after the import that it is about. Data: one image, with 4, 2
# and 1 pixels of the classes, and 1 without.
COMMON = """
import json, sys
from pathlib import Path
from longtail.config import load_config

folder = Path(sys.argv[1])
NAME = "fresh_train"

def config(kind, *options):
    return load_config(str(folder / f"{kind}.yaml"), ["DATASETS.TRAIN", (NAME,), *options])

def register():
    from longtail.data.datasets import register_sem_seg
    register_sem_seg(NAME, folder / "images", folder / "labels", ["a", "b", "c"])
"""

LOSSES = """
from longtail.losses import BOXES, IMAGES, PIXELS, build_loss, loss_names
"""
LOSSES_RUN = """
register()
cfg, found = config("tiny"), {}
for task in (PIXELS, IMAGES, BOXES):
    # Label maps count pixels and images, not boxes.
    training = (NAME,) if task is PIXELS else ()
    for name in loss_names(task):
        cfg.merge_from_list([task.loss_key, name, task.classes_key, 3, "DATASETS.TRAIN", training])
        found[f"{task.samples} {name}"] = type(build_loss(cfg, task)).__name__
cfg.merge_from_list([PIXELS.loss_key, "reweighted_cross_entropy", "DATASETS.TRAIN", (NAME,)])
print(json.dumps([found, build_loss(cfg, PIXELS).class_loss.class_weight.tolist()]))
"""

MODELING = """
import longtail.modeling
from detectron2.modeling import build_model
"""
MODELING_RUN = """
register()
loss = ("MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "balanced_softmax_region_prior")
models = [
    build_model(config("tiny", *loss)),
    build_model(config("classifier", "DATASETS.TRAIN", (), "MODEL.CLASSIFIER.LOSS", "bags")),
    build_model(config("detector", "DATASETS.TRAIN", (), "MODEL.ROI_BOX_HEAD.CLASS_LOSS", "bags")),
]
prior = models[0].sem_seg_head.pixel_loss.class_loss.class_prior
print(json.dumps([[type(model).__name__ for model in models], prior.tolist()]))
"""

EVALUATION = """
from longtail.evaluation import build_evaluator
"""
EVALUATION_RUN = """
from detectron2.data import DatasetCatalog
assert {"ade20k_sem_seg_val", "lvis_v1_val"} <= set(DatasetCatalog.list())
register()
print(json.dumps(type(build_evaluator(config("tiny"), NAME)).__name__))
"""

DATA = """
from longtail.data.samplers.training import build_train_sampler
from longtail.data.mappers.augmentation import build_sem_seg_augmentation
from longtail.data.mappers.classification import build_transform
from longtail.data.statistics.class_stats import get_class_stats
"""
DATA_RUN = """
register()
cfg = config("tiny", "DATALOADER.SAMPLER_TRAIN", "ClassBalancedTrainingSampler")
sampler = build_train_sampler(cfg, [{"label": 0}, {"label": 1}])
assert build_sem_seg_augmentation(cfg, True) and build_transform(cfg, True)
print(json.dumps([type(sampler).__name__, get_class_stats(NAME).pixel_count.tolist()]))
"""

CONFIG = """
from longtail.config import deployed_config, get_cfg, get_config_file
"""
CONFIG_RUN = """
cfg = config("tiny", "MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead",
             "MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead")
assert get_cfg().keys() == cfg.keys()
assert Path(get_config_file("Base-SemSeg-R50c.yaml")).is_file()
print(json.dumps([cfg.MODEL.SEM_SEG_HEAD.NAME, deployed_config(cfg).MODEL.SEM_SEG_HEAD.NAME]))
"""

ENGINE = """
from longtail.engine.training.solver import build_lr_scheduler, build_optimizer
from longtail.engine.training.data_sets import build_mapper
from longtail.engine.inference.build import build_inference
from longtail.engine import Trainer
"""
ENGINE_RUN = """
register()
losses = ["reweighted_cross_entropy", "MODEL.SEM_SEG_HEAD.NAME", "RegionRebalanceHead"]
cfg = config("tiny", "MODEL.SEM_SEG_HEAD.PIXEL_LOSS", *losses,
             "MODEL.REGION_REBALANCE.BASE_HEAD_NAME", "FCNHead")
model = Trainer.build_model(cfg)
optimizer = build_optimizer(cfg, model)
build_lr_scheduler(cfg, optimizer)
parts = [model.sem_seg_head, build_mapper(cfg, NAME, True), optimizer, build_inference(cfg, model)]
weights = model.sem_seg_head.base_head.pixel_loss.class_loss.class_weight
print(json.dumps([[type(part).__name__ for part in parts], weights.tolist()]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(folder / "images" / "0.png")
    labels = np.array([[0, 0, 0, 0], [1, 1, 2, 255]], np.uint8)
    Image.fromarray(labels).save(folder / "labels" / "0.png")
    tiny_config_file(folder)
    classification_config_file(folder).rename(folder / "classifier.yaml")
    (folder / "detector.yaml").write_text(DETECTOR, encoding="utf-8")
    return folder


def run(folder: Path, imports: str, rest: str) -> list | str:
    """What a fresh interpreter prints, as JSON, that begins with those imports."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", imports + COMMON + rest, str(folder)],
        env={**environment, "LONGTAIL_CACHE": str(folder / "cache")},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# 1 / n = 1/4, 1/2, 1 with mean 7/12.
REWEIGHTED = pytest.approx([3 / 7, 6 / 7, 12 / 7])


def test_losses(folder):
    kinds, weights = run(folder, LOSSES, LOSSES_RUN)
    assert len(kinds) == 10 + 10 + 11 and weights == REWEIGHTED
    assert kinds["pixels dice"] == "DiceLoss" and kinds["boxes federated"] == "Federated"


def test_models(folder):
    kinds, prior = run(folder, MODELING, MODELING_RUN)
    assert kinds == ["LongTailSemanticSegmentor", "ImageClassifier", "GeneralizedRCNN"]
    assert prior == [1, 1, 1]


def test_evaluators(folder):
    assert run(folder, EVALUATION, EVALUATION_RUN) == "SemSegEvaluator"


def test_data(folder):
    assert run(folder, DATA, DATA_RUN) == ["ClassBalancedTrainingSampler", [4, 2, 1]]


def test_configs(folder):
    assert run(folder, CONFIG, CONFIG_RUN) == ["RegionRebalanceHead", "FCNHead"]


def test_engine(folder):
    kinds, weights = run(folder, ENGINE, ENGINE_RUN)
    assert kinds[0] == "RegionRebalanceHead" and weights == REWEIGHTED
    assert kinds[1:] == ["SemSegDatasetMapper", "SGD", "LongTailSemanticSegmentor"]
