# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a data set ends a run before its first iteration."""

import json
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.data.datasets import register_lvis_instances, register_sem_seg
from longtail.engine import Trainer
from longtail.engine.inference.build import build_inference
from longtail.engine.training.data_sets import (
    align_test_sets,
    check_test_sets,
    check_training_sets,
    training_records,
)
from longtail.evaluation import build_evaluator
from tests.messages import raises_naming
from tests.tiny import write_stripes
from tests.tiny_classification import register_colors, unregister
from tests.tiny_detection import detector_config, write_rectangles

TRAIN, VAL = "data_sets_train", "data_sets_val"
CUP_BOLT_LEAF, BOLT_LEAF_CUP = ["cup", "bolt", "leaf"], ["bolt", "leaf", "cup"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))


class TestDetection:
    """Each set's JSON file is changed before it is registered."""

    @pytest.fixture
    def configure(self, tmp_path):
        def get(*overrides, train=lambda content: None, val=lambda content: None):
            for seed, (name, change) in enumerate(((TRAIN, train), (VAL, val))):
                path = write_rectangles(tmp_path / name, 4, seed)
                content = json.loads(path.read_text())
                rename(content, CUP_BOLT_LEAF)
                change(content)
                path.write_text(json.dumps(content))
                register_lvis_instances(name, path, path.parent)
            names = ["DATASETS.TRAIN", (TRAIN,), "DATASETS.TEST", (VAL,)]
            return detector_config(tmp_path, [*names, *overrides])

        yield get
        unregister(*(name for name in (TRAIN, VAL) if name in DatasetCatalog.list()))

    def test_a_run_that_is_right(self, configure):
        cfg = configure()
        assert Trainer(cfg).checkpointer.class_names == CUP_BOLT_LEAF

    def test_annotations_that_are_kept_back(self, configure):
        cfg = configure(train=lambda content: content.pop("annotations"))
        with raises_naming(ValueError, TRAIN, "annotations"):
            training_records(cfg)

    def test_classes_in_another_order_are_mapped(self, configure):
        cfg = configure(val=lambda content: rename(content, BOLT_LEAF_CUP))
        Trainer(cfg)
        metadata = MetadataCatalog.get(VAL)
        assert metadata.thing_classes == CUP_BOLT_LEAF
        # The ids 1, 2 and 3 are bolt, leaf and cup.
        assert metadata.thing_dataset_id_to_contiguous_id == {1: 1, 2: 2, 3: 0}

    def test_further_training_sets_are_mapped_as_well(self, configure):
        both = ("DATASETS.TRAIN", (TRAIN, VAL), "DATASETS.TEST", ())
        cfg = configure(*both, val=lambda content: rename(content, BOLT_LEAF_CUP))
        # Of the same classes: "red" is in every image, under the id 1.
        records = training_records(cfg)
        assert {record["annotations"][0]["category_id"] for record in records[:4]} == {0}
        assert {record["annotations"][0]["category_id"] for record in records[4:]} == {1}

    @pytest.mark.parametrize(
        ("change", "facts"),
        [
            (
                lambda content: rename(content, ["cup", "nut", "leaf"]),
                [VAL, TRAIN, "class 1", "'nut'", "'bolt'"],
            ),
            (lambda content: content["categories"].pop(), [VAL, "category 3"]),
            (lambda content: content["images"][2].pop("neg_category_ids"), ["'neg_category_ids'"]),
            (lambda content: content["images"][0].update(file_name="no.png"), ["no.png"]),
            (lambda content: content["annotations"][3].update(area=-1), ["annotation 4", "area"]),
            (lambda content: content["annotations"][3].update(iscrowd=1), ["iscrowd 1"]),
            (lambda content: content["annotations"][3].pop("area"), ["annotation 4", "'area'"]),
            (
                lambda content: content["annotations"][3].pop("segmentation"),
                [VAL, "1 objects", "MODEL.MASK_ON"],
            ),
            (lambda content: content.update(images=[], annotations=[]), [VAL, "no images"]),
        ],
        ids=["name", "number", "negatives", "image", "area", "crowd", "no area", "mask", "empty"],
    )
    def test_what_is_wrong_with_a_test_set(self, configure, change, facts):
        with raises_naming((ValueError, FileNotFoundError), *facts):
            Trainer(configure(val=change))

    def test_missing_json(self, configure, tmp_path):
        cfg = configure()
        (tmp_path / VAL / "lvis.json").unlink()
        with raises_naming(FileNotFoundError, VAL, "lvis.json"):
            Trainer(cfg)

    def test_frequencies_of_the_training_set(self, configure, caplog):
        def forget_frequencies(content):
            for category in content["categories"]:
                del category["frequency"], category["image_count"]

        cfg = configure(val=forget_frequencies)
        Trainer(cfg)
        evaluator = build_evaluator(cfg, VAL)
        rows = [
            (c["name"], c["frequency"], c["image_count"]) for c in evaluator.annotations.categories
        ]
        # Of 4 training images, see write_rectangles.
        assert rows == [("cup", "r", 4), ("bolt", "r", 2), ("leaf", "r", 1)]
        assert not [r for r in caplog.records if "frequency" in r.getMessage()]
        without = build_evaluator(detector_config_of(cfg, ()), VAL)
        assert {c["frequency"] for c in without.annotations.categories} == {None}
        assert without.annotations.frequency_groups()["r"].tolist() == []
        assert "3 categories (such as 'cup') have neither frequency" in caplog.text

    def test_boxes_alone(self, configure):
        def forget_masks(content):
            for item in content["annotations"]:
                del item["segmentation"]

        cfg = configure("MODEL.MASK_ON", False, train=forget_masks, val=forget_masks)
        trainer = Trainer(cfg)
        trainer.train()
        assert set(trainer.test(cfg, trainer.model)) == {"bbox"}
        with raises_naming(ValueError, "DATASETS.TRAIN", "MODEL.MASK_ON", "False"):
            training_records(configure(train=forget_masks))

    def test_rle_needs_bitmasks(self, configure):
        def one_rle(content):
            content["annotations"][3]["segmentation"] = {"size": [64, 64], "counts": [4000, 96]}

        with raises_naming(ValueError, "INPUT.MASK_FORMAT", "polygon", "bitmask"):
            training_records(configure(train=one_rle))
        assert training_records(configure("INPUT.MASK_FORMAT", "bitmask", train=one_rle))

    def test_weights_that_are_not_finite_find_nothing_and_are_refused(self, configure):
        cfg = configure()
        model = Trainer.build_model(cfg)
        record = {"image": torch.zeros(3, 64, 64), "height": 64, "width": 64, "file_name": "a.png"}
        checked = build_inference(cfg, model.eval())
        assert len(checked([record])) == 1
        for part in (model.roi_heads.box_predictor, model.proposal_generator, model.backbone):
            for parameter in part.parameters():
                parameter.data.fill_(float("nan"))
            assert not len(model([record])[0]["instances"])
            with raises_naming(ValueError, "a.png", "not finite"):
                checked([record])
            model.load_state_dict(Trainer.build_model(cfg).state_dict())

    def test_a_set_of_another_kind(self, configure, tmp_path):
        register_colors("data_sets_colors", tmp_path / "colors")
        try:
            with raises_naming(
                ValueError,
                *("DATASETS.TEST", "data_sets_colors", "image classification"),
                *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "object detection"),
            ):
                Trainer(configure("DATASETS.TEST", ("data_sets_colors",)))
            with raises_naming(ValueError, "DATASETS.TRAIN", "data_sets_colors", "GeneralizedRCNN"):
                check_training_sets(configure("DATASETS.TRAIN", ("data_sets_colors",)))
        finally:
            unregister("data_sets_colors")


def rename(content, names):
    for category, name in zip(content["categories"], names, strict=True):
        category.update(name=name, synonyms=[name])


def detector_config_of(cfg, training_sets):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = training_sets
    return cfg


class TestSemSeg:
    @pytest.fixture
    def val(self, configure, tmp_path):
        """A function that registers the validation set anew; returns a config."""

        def register(*overrides, classes=("red", "green", "blue"), **options):
            folder = tmp_path / "tiny_stripes_val"
            name = "tiny_stripes_val"
            register_sem_seg(name, folder / "images", folder / "labels", classes, **options)
            return configure(*overrides)

        cfg = configure()
        del cfg
        return register

    def test_the_ignored_label_is_that_of_every_set(self, val):
        key = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"
        with raises_naming(ValueError, "tiny_stripes_train", "255", key, "0"):
            Trainer(val(key, 0))
        with raises_naming(ValueError, "tiny_stripes_val", "254", key, "255"):
            Trainer(val(ignore_label=254))

    def test_classes(self, val):
        with raises_naming(ValueError, "tiny_stripes_val", "2 classes", "3"):
            Trainer(val(classes=["red", "green"]))
        with raises_naming(ValueError, "tiny_stripes_val", "class 2", "'sky'", "'blue'"):
            Trainer(val(classes=["red", "green", "sky"]))
        Trainer(val(classes=["green", "blue", "red"]))
        assert MetadataCatalog.get("tiny_stripes_val").model_classes == ["red", "green", "blue"]

    @pytest.mark.parametrize("part", ["images", "labels"])
    def test_missing_folders_and_files(self, val, tmp_path, part):
        cfg = val()
        folder = tmp_path / "tiny_stripes_val" / part
        (folder / "0.png").write_bytes(b"")
        with raises_naming(ValueError, str(folder / "0.png")):
            Trainer(cfg)
        (folder / "0.png").unlink()
        with raises_naming(ValueError, "tiny_stripes_val", "1"):
            Trainer(cfg)
        shutil.rmtree(folder)
        with raises_naming(FileNotFoundError, "tiny_stripes_val", str(folder)):
            Trainer(cfg)

    def test_the_first_training_image_is_read(self, val, tmp_path):
        cfg = val()
        (tmp_path / "tiny_stripes_train" / "images" / "0.png").write_bytes(b"")
        with raises_naming(ValueError, "0.png"):
            Trainer(cfg)

    def test_no_scales(self, val):
        with raises_naming(ValueError, "TEST.AUG.SCALES"):
            Trainer(val("TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", []))

    def test_what_is_known_without_reading(self, val, tmp_path):
        shutil.rmtree(tmp_path / "tiny_stripes_val")
        check_test_sets(val(), None)
        with raises_naming(ValueError, "tiny_stripes_val", "3", "7"):
            check_test_sets(val("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7), None)

    def test_weights_without_names_are_those_of_the_training_set(self, val):
        cfg = val(classes=["green", "blue", "red"])
        align_test_sets(cfg, "w.pth", ())
        assert MetadataCatalog.get("tiny_stripes_val").model_classes == ["red", "green", "blue"]
        align_test_sets(cfg, "w.pth", ["blue", "red", "green"])
        assert MetadataCatalog.get("tiny_stripes_val").model_classes == ["blue", "red", "green"]
        with raises_naming(ValueError, "w.pth", "tiny_stripes_val", "class 0", "'green'", "'sky'"):
            align_test_sets(cfg, "w.pth", ["sky", "red", "green"])


def test_the_checks_read_one_image_of_a_set(tmp_path, configure, monkeypatch):
    """Start-up does not depend on the number of images to be evaluated."""
    write_stripes(tmp_path / "tiny_stripes_val", 20)
    opened = []
    original = Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, *a: opened.append(str(file)) or original(file, *a)
    )
    cfg = configure()
    check_test_sets(cfg, Trainer.build_evaluator, check_training_sets(cfg))
    names = [file for file in opened if "tiny_stripes_val" in file]
    assert len(names) <= 2
