# SPDX-License-Identifier: Apache-2.0
"""Three real ADE20K images: preparation, registration, evaluator and pictures."""

import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.commands import visualize
from longtail.data.datasets import register_sem_seg
from longtail.data.prepare import prepare_dataset
from longtail.evaluation import SemSegEvaluator

K = 150


@pytest.fixture(scope="module")
def sample(shared_data, tmp_path_factory):
    """The sample in SceneParsing's layout, prepared and registered; and its predictions, shifted.

    Returns the name of the data set, the root and the folder of the predictions.
    """
    root = tmp_path_factory.mktemp("ade20k")
    given = shared_data / "ade20k_sample"
    for kind in ("images", "annotations"):
        shutil.copytree(given / kind, root / "ADEChallengeData2016" / kind / "validation")
    report = prepare_dataset("ade20k", str(root), splits=["val"], workers=1)
    assert (report.written, report.problems) == (3, [])
    folder = root / "ADEChallengeData2016"
    metadata = MetadataCatalog.get("ade20k_sem_seg_val")
    register_sem_seg(
        "ade20k_sample_val",
        folder / "images" / "validation",
        folder / "annotations_detectron2" / "validation",
        metadata.stuff_classes,
        colors=metadata.stuff_colors,
        class_groups=metadata.class_groups,
    )
    predictions = root / "predictions"
    predictions.mkdir()
    for path in (given / "predictions").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) - np.uint8(1)).save(predictions / path.name)
    return "ade20k_sample_val", given, predictions


def test_the_evaluator_equals_plain_counting(sample):
    name, given, _ = sample
    evaluator = SemSegEvaluator(name, distributed=False)
    evaluator.reset()
    matrix = np.zeros((K, K), dtype=np.int64)
    for record in DatasetCatalog.get(name):
        stem = record["file_name"].rsplit("/", 1)[1][:-4]
        # What the sample gives, without our preparation: 0 is "other", 1..150 the classes.
        target = np.asarray(Image.open(given / "annotations" / f"{stem}.png")).astype(int)
        predicted = np.asarray(Image.open(given / "predictions" / f"{stem}.png")).astype(int)
        # A network has no class "other": give its pixels the class 0 on both sides of the check.
        predicted = np.maximum(predicted, 1)
        # Shift the predictions of one image in three to have errors to count.
        if stem.endswith("2"):
            predicted = np.roll(predicted, 7, axis=1)
        np.add.at(matrix, (target[target > 0] - 1, predicted[target > 0] - 1), 1)
        logits = torch.nn.functional.one_hot(torch.as_tensor(predicted - 1), K).permute(2, 0, 1)
        evaluator.process([record], [{"sem_seg": logits.float()}])
    results = evaluator.evaluate()["sem_seg"]
    present = matrix.sum(axis=1) > 0
    iou = np.diag(matrix) / np.maximum(matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix), 1)
    assert results["mIoU"] == pytest.approx(100 * iou[present].mean(), abs=1e-9)
    assert results["aAcc"] == pytest.approx(100 * np.trace(matrix) / matrix.sum(), abs=1e-9)
    groups = {"head": range(20), "body": range(20, 75), "tail": range(75, 150)}
    for group, classes in groups.items():
        members = [c for c in classes if present[c]]
        assert results[f"mIoU-{group}"] == pytest.approx(100 * iou[members].mean(), abs=1e-9)
    assert 50 < results["mIoU"] < 100


def test_the_pictures_are_drawn(sample, tmp_path, capsys):
    name, _, predictions = sample
    visualize.main(
        ["--dataset", name, "--predictions", "given", str(predictions), "--output", str(tmp_path)]
    )
    pictures = sorted(tmp_path.glob("*.png"))
    assert [str(path) for path in pictures] == sorted(capsys.readouterr().out.split())
    for path in pictures:
        picture = np.asarray(Image.open(path))
        # Three columns side by side: image, ground truth, prediction.
        assert picture.shape[1] > 3 * 300 and picture.std() > 10
