# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of test sets: the same in any folder and order, another for other data."""

import json
import uuid

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.evaluation.base import test_set_fingerprint as compute
from longtail.evaluation.classification.evaluator import ClassificationEvaluator
from longtail.evaluation.lvis.annotations import read_lvis_annotations
from longtail.evaluation.lvis.report import fingerprint as lvis_fingerprint
from longtail.evaluation.sem_seg.evaluator import SemSegEvaluator
from tests.evaluation.lvis.scenes import make_annotations

NAMES = ["road", "tree"]


def recorded(evaluator, folder, inputs, outputs):
    """The fingerprint in the report of an evaluation."""
    evaluator.process(inputs, outputs)
    evaluator.evaluate()
    [path] = folder.glob("*_evaluation.json")
    return json.loads(path.read_text())["fingerprint"]


def of_images(folder, labels=(0, 1), ids=(3, 7), files=("a.jpg", "b.jpg"), classes=NAMES):
    name = f"fingerprint_{uuid.uuid4().hex}"
    records = [
        {"image_id": i, "label": label, "file_name": str(folder / "images" / file)}
        for i, label, file in zip(ids, labels, files, strict=True)
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=list(classes))
    outputs = [{"scores": torch.tensor([1.0, 0.0])} for _ in records]
    return recorded(ClassificationEvaluator(name, output_dir=folder), folder, records, outputs)


def of_label_maps(folder, maps=((0, 0, 1), (1, 0, 255)), files=("a", "b"), classes=NAMES):
    name = f"fingerprint_{uuid.uuid4().hex}"
    folder.mkdir()
    records = []
    for file, labels in zip(files, maps, strict=True):
        path = folder / f"{file}.png"
        Image.fromarray(np.array([labels], np.uint8)).save(path)
        records.append({"file_name": str(folder / f"{file}.jpg"), "sem_seg_file_name": str(path)})
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list(classes), ignore_label=255)
    outputs = [{"sem_seg": torch.zeros(1, len(labels), dtype=torch.int64)} for labels in maps]
    return recorded(SemSegEvaluator(name, output_dir=folder), folder, records, outputs)


@pytest.fixture
def folders(tmp_path):
    return (tmp_path / str(number) for number in range(9))


def test_image_classification(folders):
    first = of_images(next(folders))
    assert first == of_images(next(folders))
    assert first == of_images(next(folders), (1, 0), (7, 3), ("b.jpg", "a.jpg"))
    others = [
        of_images(next(folders), labels=(1, 1)),
        of_images(next(folders), ids=(3, 8)),
        # As many images of each class, in the same order.
        of_images(next(folders), files=("c.jpg", "d.jpg")),
        of_images(next(folders), classes=["road", "bush"]),
    ]
    assert len({first, *others}) == 5


def test_semantic_segmentation(folders):
    first = of_label_maps(next(folders))
    assert first == of_label_maps(next(folders))
    assert first == of_label_maps(next(folders), ((1, 0, 255), (0, 0, 1)), ("b", "a"))
    others = [
        of_label_maps(next(folders), maps=((0, 1, 1), (1, 0, 255))),
        of_label_maps(next(folders), files=("a", "c")),
        of_label_maps(next(folders), classes=["road", "bush"]),
    ]
    assert len({first, *others}) == 4


def test_lvis(tmp_path):
    def of(content, name):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return lvis_fingerprint(read_lvis_annotations(str(path)))

    content = make_annotations(3)
    turned = {
        key: values[::-1] if isinstance(values, list) else values for key, values in content.items()
    }
    assert of(content, "one") == of(turned, "turned")
    moved = json.loads(json.dumps(content))
    moved["annotations"][0]["bbox"][0] += 1
    fewer = {**content, "images": content["images"][:-1]}
    gone = content["images"][-1]["id"]
    fewer["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]
    assert len({of(content, "a"), of(moved, "b"), of(fewer, "c")}) == 3


def test_columns_are_told_apart():
    assert compute(NAMES, np.array([1, 2])) == compute(NAMES, np.array([1, 2]))
    assert compute(NAMES, np.array([1, 2])) != compute(NAMES, np.array([2, 1]))
    assert compute(NAMES, ["a", "b"]) != compute(NAMES, ["ab"])
    assert compute(["a", "b"]) != compute(["a"], ["b"])
