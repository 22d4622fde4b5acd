# SPDX-License-Identifier: Apache-2.0
"""Runs are read as their evaluations wrote them, under the names of the papers' tables."""

import json
import math

import numpy as np
import pytest
import scipy.sparse
import torch

from longtail.analysis.evaluations import read_evaluation
from longtail.analysis.runs import find_runs, read_run
from longtail.config.loading import get_cfg
from longtail.evaluation.classification.evaluator import ClassificationEvaluator
from longtail.evaluation.lvis.evaluator import LVISEvaluator
from longtail.evaluation.provenance import moment
from longtail.evaluation.provenance import provenance as origin
from tests.evaluation.lvis.scenes import make_annotations, make_predictions, register, run
from tests.finished_runs import provenance, write_run
from tests.messages import raises_naming
from tests.tiny_classification import register_colors, unregister


def test_semantic_segmentation(tmp_path):
    confusion = [[5, 1, 0], [2, 3, 0], [0, 0, 0]]
    history = [{"iteration": 3, "total_loss": 0.5}, {"iteration": 9, "sem_seg/mIoU": 61.5}]
    write_run(tmp_path, {"mIoU": 61.5}, seed=4, confusion=confusion, history=history)
    write_run(tmp_path, {"mIoU": 63.0}, seed=4, multi_scale=True)
    found = read_run(tmp_path)
    assert (found.name, found.seed, found.test_sets) == (tmp_path.name, 4, ("toy_val",))
    assert found.config["SOLVER.MAX_ITER"] == 10
    one, several = found.evaluation(), found.evaluation(multi_scale=True)
    assert not one.multi_scale and several.multi_scale and one.is_final
    assert one.groups == {"head": (0,), "body": (1,), "tail": (2,)}
    assert one.class_names == ("road", "tree", "pole")
    np.testing.assert_array_equal(one.train_counts["pixels"], [900, 90, 10])
    np.testing.assert_array_equal(one.train_counts["images"], [9, 5, 2])
    assert "instances" not in one.train_counts
    np.testing.assert_array_equal(one.per_class["IoU"], [90, 40, np.nan])
    np.testing.assert_array_equal(one.per_class["Acc"], [91, 41, np.nan])
    np.testing.assert_array_equal(one.confusion().toarray(), confusion)
    metrics = found.metrics()
    assert (metrics["mIoU"], metrics["mIoU (m.s.)"], metrics["mIoU head"]) == (61.5, 63.0, 90)
    assert metrics["mAcc body (m.s.)"] == 41 and math.isnan(metrics["mIoU tail"])
    assert found.history() == history


def test_an_evaluation_in_the_middle_of_a_training_is_not_final(tmp_path):
    write_run(tmp_path / "half", {}, iteration=5)
    write_run(tmp_path / "apart", {}, iteration=None)
    half, apart = read_run(tmp_path / "half"), read_run(tmp_path / "apart")
    assert not half.evaluation().is_final and apart.evaluation().is_final


def test_classification_by_its_evaluator(tmp_path):
    """Of 9 images the right class has the first, second or third place."""
    register_colors("runs_train", tmp_path / "train")
    register_colors("runs_test", tmp_path / "test", (3, 3, 3), training_set="runs_train")
    try:
        folder = tmp_path / "run" / "inference" / "runs_test"
        evaluator = ClassificationEvaluator("runs_test", output_dir=str(folder))
        predicted = [0, 0, 1, 1, 1, 2, 0, 0, 0]
        inputs = [{"image_id": i} for i in sorted(evaluator._labels)]
        outputs = [{"scores": torch.eye(3)[p]} for p in predicted]
        evaluator.process(inputs, outputs)
        evaluator.evaluate()
    finally:
        unregister("runs_train", "runs_test")
    one = read_evaluation(folder / "classification_evaluation.json")
    assert (one.task, one.dataset, one.num_images) == ("classification", "runs_test", 9)
    assert one.groups == {"few": (0, 1, 2)}
    np.testing.assert_array_equal(one.train_counts["images"], [8, 4, 2])
    np.testing.assert_allclose(one.per_class["acc"], [200 / 3, 200 / 3, 0])
    assert one.metrics["average"] == pytest.approx(400 / 9)
    assert one.metrics["few"] == pytest.approx(400 / 9)
    assert one.metrics["top1"] == pytest.approx(400 / 9)
    np.testing.assert_array_equal(one.confusion().toarray(), [[2, 1, 0], [0, 2, 1], [3, 0, 0]])


def test_lvis_by_its_evaluator(tmp_path):
    content = make_annotations(3)
    for category in content["categories"]:
        category["instance_count"] = 5 * category["id"]
    inputs, outputs = make_predictions(content, 4)
    folder = tmp_path / "inference" / "scenes"
    evaluator = LVISEvaluator(register(tmp_path, content), str(folder), write_precision=True)
    results = run(evaluator, inputs, outputs)
    one = read_evaluation(folder / "lvis_evaluation.json")
    assert one.metrics["box APr"] == pytest.approx(results["bbox"]["APr"], nan_ok=True)
    assert one.metrics["mask AP50"] == results["segm"]["AP50"]
    assert one.confusion() is None
    # Of categories in the order of their ids.
    ids = np.arange(1, 1 + len(content["categories"]))
    np.testing.assert_array_equal(one.train_counts["images"], 3 * (ids - 1))
    np.testing.assert_array_equal(one.train_counts["instances"], 5 * ids)
    precision = np.load(folder / "precision_bbox_standard.npy", allow_pickle=False)
    assert np.nanmean(precision[..., 0]) * 100 == pytest.approx(one.metrics["box AP"])
    of_category = 100 * precision[..., 0].mean(axis=(0, 1))
    np.testing.assert_allclose(one.per_class["box AP"], of_category)
    letters = {c["frequency"] for c in content["categories"]}
    assert set(one.groups) == letters


def test_runs_below_a_folder(tmp_path):
    for name in ("b/seed1", "a", "b/seed0"):
        write_run(tmp_path / name, {})
    (tmp_path / "c" / "inference").mkdir(parents=True)
    found = find_runs([tmp_path, tmp_path / "a"])
    assert [r.folder.relative_to(tmp_path).as_posix() for r in found] == ["a", "b/seed0", "b/seed1"]


def cut(path):
    path.write_text(path.read_text()[:100])


def older(path):
    path.write_text('{"mIoU": 50, "dataset": "toy_val"}')


def without_name(path):
    report = json.loads(path.read_text())
    del report["classes"][1]["name"]
    path.write_text(json.dumps(report))


def other_yaml(path):
    report = json.loads(path.read_text())
    report["provenance"]["config"] = "!!python/object/apply:os.getcwd []"
    path.write_text(json.dumps(report))


@pytest.mark.parametrize("damage", [cut, older, without_name, other_yaml])
def test_a_damaged_report_is_named(tmp_path, damage):
    write_run(tmp_path, {})
    path = tmp_path / "inference" / "toy_val" / "sem_seg_evaluation.json"
    damage(path)
    with raises_naming(ValueError, str(path), "--eval-only"):
        read_run(tmp_path)


def test_an_evaluation_by_somebodys_own_code_has_no_config(tmp_path):
    """Without a config neither the seed is known nor how long a training lasts."""
    write_run(tmp_path, {}, iteration=5)
    path = tmp_path / "inference" / "toy_val" / "sem_seg_evaluation.json"
    report = json.loads(path.read_text())
    del report["provenance"]["config"]
    path.write_text(json.dumps(report))
    found = read_run(tmp_path)
    assert found.config == {} and found.seed == -1 and found.evaluation().is_final


def test_control_characters_in_names_reach_no_terminal(tmp_path):
    write_run(tmp_path, {}, names=("road", "\x1b[2Jtree", "po\x01le"))
    assert read_run(tmp_path).evaluation().class_names == ("road", " [2Jtree", "po le")


@pytest.mark.parametrize("kind", ["csr", "float"])
def test_a_matrix_of_another_form_is_not_read(tmp_path, kind):
    """scipy does not check indices of csr_array, and is ended by the system for wrong ones."""
    write_run(tmp_path, {})
    path = tmp_path / "inference" / "toy_val" / "confusion_matrix.npz"
    other = scipy.sparse.csr_array(np.eye(3, dtype=int))
    scipy.sparse.save_npz(path, other if kind == "csr" else scipy.sparse.coo_array(np.eye(3)))
    with raises_naming(ValueError, str(path), "--eval-only"):
        read_run(tmp_path).evaluation().confusion()


def test_a_damaged_confusion_matrix_is_named(tmp_path):
    write_run(tmp_path, {}, confusion=np.eye(4, dtype=int))
    with raises_naming(ValueError, "confusion_matrix.npz", "(4, 4)", "3 classes"):
        read_run(tmp_path).evaluation().confusion()
    path = tmp_path / "inference" / "toy_val" / "confusion_matrix.npz"
    path.write_bytes(path.read_bytes()[:50])
    with raises_naming(ValueError, str(path), "--eval-only"):
        read_run(tmp_path).evaluation().confusion()


def test_no_run(tmp_path):
    with raises_naming(FileNotFoundError, "gone"):
        read_run(tmp_path / "gone")
    with raises_naming(FileNotFoundError, "gone"):
        find_runs([tmp_path / "gone"])
    for read in (read_run, lambda folder: find_runs([folder])):
        with raises_naming(ValueError, str(tmp_path), "evaluation"):
            read(tmp_path)


def test_a_line_that_was_cut_is_left_out(tmp_path):
    write_run(tmp_path, {}, history=[{"iteration": 1}])
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 2, "total')
    assert read_run(tmp_path).history() == [{"iteration": 1}]


def test_the_origin_is_whole():
    """What the helper of these tests writes has the entries that evaluations write."""
    written = provenance(0, {}, None, "out")
    assert set(origin(get_cfg())) | set(moment(1)) == set(written)
