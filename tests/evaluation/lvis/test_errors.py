# SPDX-License-Identifier: Apache-2.0
"""Bad annotations and predictions: one clear line each."""

import json
import math

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.evaluation import LVISEvaluator
from tests.evaluation.lvis.scenes import H, W, make_annotations, make_predictions, register, run


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def change(path, value):
    """A change of the first image, annotation or category, such as ``annotations.area``."""
    kind, key = path.split(".")

    def apply(content):
        if value is None:
            del content[kind][0][key]
        else:
            content[kind][0][key] = value

    return apply


BAD_ANNOTATIONS = {
    "no images": (lambda c: c.pop("images"), ["'images'"]),
    "no categories": (lambda c: c.pop("categories"), ["'categories'"]),
    "no area": (change("annotations.area", None), ["annotation 1 has no 'area'"]),
    "no negatives": (
        change("images.neg_category_ids", None),
        ["image 1000 has no 'neg_category_ids'"],
    ),
    "frequency": (change("categories.frequency", "x"), ["category 12 ", "'x'", "'r', 'c', 'f'"]),
    "image": (change("annotations.image_id", 77), ["annotation 1 ", "unknown image_id 77"]),
    "category": (change("annotations.category_id", 77), ["unknown category_id 77"]),
    "negative area": (change("annotations.area", -5), ["annotation 1 ", "area -5"]),
    "crowd": (change("annotations.iscrowd", 1), ["1 annotations are crowds", "such as 1,"]),
    "polygon": (
        change("annotations.segmentation", [[1, 2, 3, 4, 5, 1e9]]),
        ["annotation 1 ", "coordinate 1000000000.0"],
    ),
    "negatives": (change("images.neg_category_ids", [10, 999]), ["image 1000 ", "category 999"]),
    "box": (change("annotations.bbox", [1, 2, 3]), ["annotation 1 ", "bbox [1, 2, 3]"]),
    "annotation twice": (change("annotations.id", 2), ["the id 2 ", "annotation"]),
    "image twice": (change("images.id", 993), ["the id 993 ", "image"]),
    "no objects": (lambda c: c.update(images=[1, 2]), ["image", "object: 1"]),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotations(tmp_path, case):
    content = make_annotations(0)
    damage, parts = BAD_ANNOTATIONS[case]
    damage(content)
    name = register(tmp_path, content)
    with pytest.raises(ValueError) as error:
        LVISEvaluator(name)
    assert_one_line(error, MetadataCatalog.get(name).json_file, *parts)


def test_broken_and_missing_files(tmp_path):
    text = json.dumps(make_annotations(0))
    name = register(tmp_path, text[: len(text) // 2])
    with pytest.raises(ValueError) as error:
        LVISEvaluator(name)
    assert_one_line(error, "cut short", MetadataCatalog.get(name).json_file)

    with pytest.raises(ValueError) as error:
        LVISEvaluator(register(tmp_path, "[]"))
    assert_one_line(error, "holds a list", "LVIS's format")

    name = register(tmp_path, "{}")
    (tmp_path / f"{name}.json").unlink()
    with pytest.raises(FileNotFoundError) as error:
        LVISEvaluator(name)
    assert_one_line(error, "is missing", f"{name}.json")


def test_bad_registration(tmp_path):
    with pytest.raises(ValueError, match="'no_such_set' is not registered"):
        LVISEvaluator("no_such_set")
    DatasetCatalog.register("test_lvis_without_file", list)
    with pytest.raises(ValueError, match="'test_lvis_without_file' has no json_file"):
        LVISEvaluator("test_lvis_without_file")
    name = register(tmp_path, make_annotations(0), thing_classes=[f"name{c}" for c in range(13)])
    with pytest.raises(ValueError, match=r"category id 13, but .* does not"):
        LVISEvaluator(name)
    mapping = {c: 2 * c for c in range(1, 13)}
    name = register(tmp_path, make_annotations(0), thing_dataset_id_to_contiguous_id=mapping)
    with pytest.raises(ValueError, match=r"class indices of .* must be 0 to 11"):
        LVISEvaluator(name)


def test_bad_arguments(tmp_path):
    name = register(tmp_path, make_annotations(0))
    for arguments, text in (
        ({"modes": ["fixd"]}, "modes must be of .*'fixd'"),
        ({"modes": "fixed"}, "modes must be of"),
        ({"modes": []}, "modes must be of"),
        ({"tasks": ["mask"]}, "tasks must be of .*'mask'"),
        ({"max_dets_per_image": 0}, "must be positive, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            LVISEvaluator(name, **arguments)


class TestPredictions:
    @pytest.fixture
    def evaluator(self, tmp_path):
        return LVISEvaluator(register(tmp_path, make_annotations(0)), str(tmp_path / "out"))

    @pytest.fixture
    def image(self):
        inputs, outputs = make_predictions(make_annotations(0), 0, per_image=5, many=())
        return inputs[0], outputs[0]["instances"]

    def process(self, evaluator, record, instances):
        evaluator.process([record], [{"instances": instances}])

    def check(self, evaluator, record, instances, *parts):
        with pytest.raises(ValueError) as error:
            self.process(evaluator, record, instances)
        assert_one_line(error, *parts)

    def test_unknown_image(self, evaluator, image):
        self.check(evaluator, {"image_id": 5}, image[1], "image 5 is not in")

    @pytest.mark.parametrize("label", [-1, 12])
    def test_unknown_category(self, evaluator, image, label):
        record, instances = image
        instances.pred_classes[2] = label
        self.check(evaluator, record, instances, "image 1000", f"class {label}", "0 to 11")

    def test_image_twice(self, evaluator, image):
        self.process(evaluator, *image)
        self.check(evaluator, *image, "image 1000 came twice", "reset()")
        evaluator.reset()
        self.process(evaluator, *image)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_scores_and_boxes_that_are_not_finite(self, evaluator, image, value):
        image[1].scores[0], before = value, image[1].scores[0].item()
        self.check(evaluator, *image, "image 1000: scores are not finite")
        image[1].scores[0] = before
        image[1].pred_boxes.tensor[3, 2] = value
        self.check(evaluator, *image, "image 1000: boxes are not finite")

    def test_size_of_the_image(self, evaluator, image):
        record, instances = image
        instances._image_size = (W, H)
        self.check(evaluator, record, instances, "image 1000", f"({W}, {H})", f"({H}, {W})")

    def test_size_of_the_masks(self, evaluator, image):
        record, instances = image
        instances.pred_masks = torch.ones(len(instances), H, W - 1, dtype=torch.bool)
        self.check(evaluator, record, instances, "image 1000", f"[{H}, {W - 1}]")

    def test_masks_for_some_images_only(self, evaluator):
        inputs, outputs = make_predictions(make_annotations(0), 0, many=())
        with_masks, without = outputs[0]["instances"], outputs[1]["instances"]
        without.remove("pred_masks")
        self.process(evaluator, inputs[0], with_masks)
        self.check(evaluator, inputs[1], without, "image 993", "without pred_masks")
        evaluator.reset()
        self.process(evaluator, inputs[1], without)
        self.check(evaluator, inputs[0], with_masks, "image 1000", "before it had none")

    def test_masks_asked_for(self, tmp_path, image):
        record, instances = image
        instances.remove("pred_masks")
        evaluator = LVISEvaluator(register(tmp_path, make_annotations(0)), tasks=["segm"])
        self.check(evaluator, record, instances, "without pred_masks")

    def test_invalid_segmentation_matters_for_masks_alone(self, tmp_path, image):
        record, instances = image
        for shape in ([[1, 2, 3, 4]], [], None, [["x"]], {"size": [1, 1], "counts": "11"}):
            content = make_annotations(0)
            for annotation in content["annotations"]:
                annotation["segmentation"] = shape
            instances.pred_classes[:] = next(
                a["category_id"] - 1
                for a in content["annotations"]
                if a["image_id"] == record["image_id"] and a["area"]
            )
            name = register(tmp_path, content)
            if not shape:
                evaluator = LVISEvaluator(name)
                self.check(evaluator, record, instances, f"{name}.json: image 1000", "segmentation")
            else:
                with pytest.raises(ValueError) as error:
                    LVISEvaluator(name)
                assert_one_line(error, f"{name}.json: annotation 1 has an")
            run(
                LVISEvaluator(name, tasks=["bbox"]),
                [record],
                [{"instances": instances}],
            )

    def test_no_images(self, evaluator, tmp_path):
        with pytest.raises(ValueError, match="no image was evaluated"):
            evaluator.evaluate()
        assert not (tmp_path / "out").exists()

    def test_missing_images_are_named(self, evaluator, image, caplog):
        run(evaluator, [image[0]], [{"instances": image[1]}])
        assert "11 of 12 images were not processed" in caplog.text
