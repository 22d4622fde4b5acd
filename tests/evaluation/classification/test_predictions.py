# SPDX-License-Identifier: Apache-2.0
"""The file of the best classes of every image."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog

from longtail.evaluation.classification.evaluator import ClassificationEvaluator
from longtail.evaluation.classification.predictions import best_classes, write_predictions
from tests.tiny_classification import register_colors, unregister

NAME = "test_classification_predictions"


def test_the_five_best_classes_by_hand():
    scores = torch.tensor([[0.05, 0.3, 0.1, 0.3, 0.15, 0.06, 0.04], [0, 0, 0, 0, 0, 0, 1.0]])
    (classes, values), (ties, _) = best_classes(scores)
    # Of equal scores the first class, as the metrics rank them.
    assert classes == [1, 3, 4, 2, 5]
    assert values == pytest.approx([0.3, 0.3, 0.15, 0.1, 0.06])
    assert ties == [6, 0, 1, 2, 3]


def test_images_of_all_processes_come_in_one_order(tmp_path):
    parts = [[{"image_id": 2}, {"image_id": 0}], [{"image_id": 1}]]
    write_predictions(tmp_path, "name", ["a", "b"], parts)
    content = json.loads((tmp_path / "classification_predictions.json").read_text())
    assert content == {
        "dataset": "name",
        "class_names": ["a", "b"],
        "images": [{"image_id": 0}, {"image_id": 1}, {"image_id": 2}],
    }


def test_the_evaluator_writes_them_if_asked_to(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "statistics"))
    register_colors(NAME, tmp_path / "data", (1, 1, 1))
    try:
        records = DatasetCatalog.get(NAME)
        scores = torch.tensor([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75], [1, 0, 0]])
        outputs = [{"scores": row} for row in scores]
        for asked in (False, True):
            folder = tmp_path / str(asked)
            evaluator = ClassificationEvaluator(
                NAME, output_dir=str(folder), write_predictions=asked
            )
            # A second evaluation does not hold the first one's.
            for _ in range(2):
                evaluator.reset()
                evaluator.process(records[:2], outputs[:2])
                evaluator.process(records[2:], outputs[2:])
                evaluator.evaluate()
            assert (folder / "classification_predictions.json").is_file() == asked
        content = json.loads((folder / "classification_predictions.json").read_text())
        assert content["dataset"] == NAME and content["class_names"] == ["red", "green", "blue"]
        assert content["images"] == [
            {"file_name": record["file_name"], "image_id": i, "classes": k, "scores": s}
            for i, (record, k, s) in enumerate(
                zip(
                    records,
                    [[1, 0, 2], [2, 0, 1], [0, 1, 2]],
                    [[0.5, 0.25, 0.25], [0.75, 0.125, 0.125], [1.0, 0.0, 0.0]],
                    strict=True,
                )
            )
        ]
        with pytest.raises(ValueError, match="write_predictions needs an output_dir"):
            ClassificationEvaluator(NAME, write_predictions=True)
    finally:
        unregister(NAME)
