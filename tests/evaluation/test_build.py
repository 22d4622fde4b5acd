# SPDX-License-Identifier: Apache-2.0
"""The evaluator follows from the type in the data set's metadata."""

import uuid

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from longtail.config.loading import get_cfg
from longtail.evaluation import LVISEvaluator, SemSegEvaluator, build_evaluator
from longtail.evaluation.coco import CocoEvaluator


@pytest.fixture
def cfg():
    return get_cfg()


def register(evaluator_type, **metadata):
    name = f"test_build_{uuid.uuid4().hex}"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.jpg", "sem_seg_file_name": "a.png"}])
    MetadataCatalog.get(name).set(evaluator_type=evaluator_type, **metadata)
    return name


def test_sem_seg(cfg):
    name = register("sem_seg", stuff_classes=["a", "b"])
    assert isinstance(build_evaluator(cfg, name), SemSegEvaluator)


def test_write_predictions_is_passed_on(cfg):
    cfg.TEST.SEM_SEG.WRITE_PREDICTIONS = True
    name = register("sem_seg", stuff_classes=["a", "b"])
    with pytest.raises(ValueError, match="write_predictions needs an output_dir"):
        build_evaluator(cfg, name)


@pytest.mark.parametrize(("kind", "expected"), [("coco", CocoEvaluator), ("lvis", LVISEvaluator)])
def test_instances(cfg, tmp_path, kind, expected):
    name = register(kind, json_file=empty_annotations(tmp_path), thing_classes=[])
    assert isinstance(build_evaluator(cfg, name, str(tmp_path)), expected)


@pytest.mark.parametrize(
    ("key", "value"), [("KEYPOINT_ON", True), ("META_ARCHITECTURE", "ProposalNetwork")]
)
def test_keypoints_and_proposals_are_detectron2s(cfg, tmp_path, key, value):
    cfg.MODEL[key] = value
    name = register("coco", json_file=empty_annotations(tmp_path), thing_classes=[])
    assert isinstance(build_evaluator(cfg, name, str(tmp_path)), COCOEvaluator)


def test_lvis_modes_are_passed_on(cfg, tmp_path):
    cfg.TEST.LVIS.MODES = ["fixed", "poole"]
    name = register("lvis", json_file=empty_annotations(tmp_path), thing_classes=[])
    with pytest.raises(ValueError, match=r"modes must be of .*'poole'"):
        build_evaluator(cfg, name)


def empty_annotations(folder):
    path = folder / "annotations.json"
    path.write_text('{"info": {}, "images": [], "annotations": [], "categories": []}')
    return str(path)


def test_unknown(cfg):
    name = register("panoptic")
    with pytest.raises(
        ValueError, match=f"{name}.*'panoptic'.*one of sem_seg, classification, coco, lvis"
    ):
        build_evaluator(cfg, name)
    with pytest.raises(ValueError, match="'no_such_set' is not registered"):
        build_evaluator(cfg, "no_such_set")
