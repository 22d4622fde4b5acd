"""Every config loads, says what it stands for, and fits its data sets."""

import functools
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.config import deployed_config, load_config
from longtail.engine import Trainer
from tools.config_index import comment_lines, config_files, read_header

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = config_files(ROOT / "configs")
each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))


@functools.cache
def loaded(path: Path) -> CfgNode:
    """A config that nobody changes."""
    cfg = load_config(str(path))
    cfg.freeze()
    return cfg


def first_comment(path: Path) -> str:
    return " ".join(comment_lines(path))


def test_there_are_configs():
    assert CONFIGS


@each_config
def test_loads_and_stands_for_something(path):
    loaded(path)
    read_header(path, ROOT / "configs")


# Classes of the sets of images of one class each, by the start of their names.
IMAGE_CLASSES = {"imagenet": 1000, "places": 365, "inaturalist2018": 8142, "digits": 10}


@each_config
def test_data_sets(path):
    cfg = loaded(path)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    for name in names:
        assert name in DatasetCatalog.list(), name
        # The number of generated classes is that of what was generated on this machine.
        if "synthetic" in name:
            continue
        metadata = MetadataCatalog.get(name)
        if metadata.evaluator_type == "classification":
            # Most know their classes once they are loaded.
            assert IMAGE_CLASSES[name.split("_")[0]] == cfg.MODEL.CLASSIFIER.NUM_CLASSES, name
        elif metadata.evaluator_type == "lvis":
            assert len(metadata.thing_classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES, name
        else:
            assert len(metadata.stuff_classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, name


@each_config
def test_output_folders_differ(path):
    own = loaded(path).OUTPUT_DIR
    others = [loaded(other).OUTPUT_DIR for other in CONFIGS if other != path]
    assert own not in [*others, "./output"]


@pytest.mark.parametrize("with_branch", [False, True], ids=["baseline", "region rebalance"])
def test_a_baseline_and_its_rival_are_deployed_alike(with_branch):
    stem = "configs/CamVid/deeplabv3plus_lite0"
    cfg = load_config(str(ROOT / f"{stem}{'_rr' if with_branch else ''}.yaml"))
    cfg.MODEL.TIMM.PRETRAINED = ""
    cfg.MODEL.DEVICE = "cpu"
    deployed = deployed_config(cfg)
    assert deployed.MODEL.SEM_SEG_HEAD.NAME == "SeparableDeepLabV3PlusHead"
    count = sum(p.numel() for p in Trainer.build_model(deployed).parameters())
    plain = load_config(str(ROOT / f"{stem}.yaml"))
    plain.MODEL.TIMM.PRETRAINED = ""
    plain.MODEL.DEVICE = "cpu"
    assert count == sum(p.numel() for p in Trainer.build_model(plain).parameters())


def test_base_recipe_of_the_papers():
    """SGD and poly schedule of the papers' CNNs."""
    cfg = load_config(str(ROOT / "configs/Base-SemSeg-R50c.yaml"))
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.MOMENTUM) == ("SGD", 0.01, 0.9)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (1e-4, 1e-4)
    assert (solver.POLY_LR_POWER, solver.POLY_LR_FLOOR) == (0.9, 1e-4)
    assert (solver.IMS_PER_BATCH, solver.WARMUP_ITERS) == (16, 0)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((512,), 2048)
    assert list(cfg.INPUT.RESIZE_SCALE_RANGE) == [0.5, 2.0]
    assert list(cfg.INPUT.CROP.SIZE) == [512, 512]
    assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
    assert list(cfg.TEST.AUG.SCALES) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert (cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUTPUT_STRIDE) == ("resnet50c", 8)
    assert cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.LOSS_WEIGHT == 0.4
