# SPDX-License-Identifier: Apache-2.0
"""Metrics of decisions: cases by hand, and AP at few detections against the evaluator's limit."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from longtail.config.loading import get_cfg
from longtail.evaluation import LVISEvaluator, build_evaluator
from longtail.evaluation.lvis import evaluator as lvis_evaluator
from longtail.evaluation.lvis import matches as lvis_matches
from longtail.evaluation.lvis.decisions import (
    NONE,
    RIGHT,
    WRONG,
    best_threshold,
    decision_metrics,
    judge_classes,
)
from longtail.evaluation.lvis.report import format_decisions
from tests.evaluation.lvis.by_hand import annotations, ground_truth, matches
from tests.evaluation.lvis.scenes import make_annotations, make_predictions, register, run

WHOLE = [0, 0, 10, 10]


class TestJudgedClasses:
    def judge(self, category, boxes, found):
        columns = [[row[0] for row in found], [row[1] for row in found]]
        nearest, surest = judge_classes(
            np.array(category, np.int32),
            np.array(boxes, np.float64),
            np.array(columns[0], np.int32),
            np.array(columns[1], np.float64).reshape(-1, 4),
        )
        return nearest.tolist(), surest.tolist()

    def test_nearest_and_surest(self):
        """IoU 0.6 of category 1, surer, and 1 of category 0; the other object has only 0.4."""
        found = [(1, [0, 0, 10, 6]), (0, WHOLE), (1, [50, 0, 10, 4])]
        judged = self.judge([0, 1], [WHOLE, [50, 0, 10, 10]], found)
        assert judged == ([RIGHT, NONE], [WRONG, NONE])

    def test_half_is_enough_and_of_equal_ones_the_surest_counts(self):
        assert self.judge([0], [WHOLE], [(0, [0, 0, 10, 5])]) == ([RIGHT], [RIGHT])
        assert self.judge([0], [WHOLE], [(1, WHOLE), (0, WHOLE)]) == ([WRONG], [WRONG])
        # What overlaps too little is not asked, however sure.
        assert self.judge([0], [WHOLE], [(1, [0, 0, 10, 4]), (0, WHOLE)]) == ([RIGHT], [RIGHT])

    def test_nothing_found_and_nothing_there(self):
        assert self.judge([0], [WHOLE], []) == ([NONE], [NONE])
        assert self.judge([], np.zeros((0, 4)), [(0, WHOLE)]) == ([], [])


class TestThreshold:
    def choose(self, rows, num_gt):
        category, score, verdict = zip(*rows, strict=True) if rows else ((), (), ())
        verdict = np.array(verdict)
        return best_threshold(
            np.array(category, np.int32),
            np.array(score, np.float32),
            verdict == "right",
            verdict == "wrong",
            np.array(num_gt),
        )

    def test_mean_over_categories(self):
        """F1 of the two at 0.9: 2/3, 0; at 0.7: 2/3, 2/3; at 0.3: 1, 2/3; at 0.2: 4/5, 2/3."""
        rows = [(0, 0.9, "right"), (1, 0.8, "wrong"), (1, 0.7, "right")]
        rows += [(0, 0.3, "right"), (0, 0.2, "wrong")]
        assert self.choose(rows, [2, 1]) == np.float32(0.3)

    def test_equal_scores_are_taken_together(self):
        """At 0.5 1 of 2 found with 6 wrong: 2/9, and 1; at 0.3 both of 2: 4/10, and 1."""
        rows = [(1, 0.9, "right"), (0, 0.5, "right"), *[(0, 0.5, "wrong")] * 6, (0, 0.3, "right")]
        assert self.choose(rows, [2, 1]) == np.float32(0.3)
        assert self.choose(rows[:-1], [2, 1]) == 0.5

    def test_of_equally_good_ones_the_highest(self):
        rows = [(0, 0.9, "right"), (0, 0.4, "neither")]
        assert self.choose(rows, [1, 3]) == np.float32(0.9)
        assert math.isnan(self.choose([], [1]))


def test_metrics_of_matches():
    """Three categories r, c, f with 1, 0 and 2 annotations.

    At 0.6: r has found its own with one wrong, F1 2/3; f one of two without mistake, F1 2/3.
    """
    rows = [(0, 0, 0.9, True, "wrong"), (0, 0, 0.8, True, "right"), (0, 2, 0.6, True, "right")]
    # Behind the limit of its image, of a category without ground truth, wrong.
    rows += [(0, 2, 0.5, False, "right"), (0, 1, 0.7, True, "wrong"), (0, 2, 0.3, True, "wrong")]
    truth = ground_truth([(0, WHOLE, False), (2, WHOLE, False), (2, [50, 0, 10, 10], False)])
    metrics, per_class = decision_metrics(matches(rows), [], annotations([truth]))
    assert metrics["threshold"] == pytest.approx(60)
    assert (metrics["F1"], metrics["F1 r"]) == (pytest.approx(200 / 3), pytest.approx(200 / 3))
    assert (metrics["recall"], metrics["recall r"], metrics["recall f"]) == (75, 100, 50)
    assert math.isnan(metrics["F1 c"]) and math.isnan(per_class["recall"][1])
    assert math.isnan(metrics["surest acc"]) and metrics["AP@1"] == 0


def two_images():
    """Category 1 (rare) in image 1, verified absent in image 2; 2 (frequent) twice in image 2."""
    image = {"height": 20, "width": 80, "not_exhaustive_category_ids": []}
    annotation = {"area": 100, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]}
    boxes = [(1, 1, WHOLE), (2, 2, WHOLE), (2, 2, [50, 0, 10, 10])]
    return {
        "images": [
            {**image, "id": 1, "neg_category_ids": []},
            {**image, "id": 2, "neg_category_ids": [1]},
        ],
        "annotations": [
            {**annotation, "id": n, "image_id": i, "category_id": c, "bbox": box}
            for n, (i, c, box) in enumerate(boxes, start=1)
        ],
        "categories": [
            {"id": 1, "name": "a", "frequency": "r", "image_count": 5},
            {"id": 2, "name": "b", "frequency": "f", "image_count": 500},
        ],
    }


def detected(rows):
    """From (score, class, corners) rows."""
    return {
        "instances": Instances(
            (20, 80),
            pred_boxes=Boxes(torch.tensor([row[2] for row in rows], dtype=torch.float32)),
            scores=torch.tensor([row[0] for row in rows]),
            pred_classes=torch.tensor([row[1] for row in rows]),
        )
    }


INPUTS = [{"image_id": 1}, {"image_id": 2}]
OUTPUTS = [
    # Nothing is known of b in this image: its detection counts for no metric but the class.
    detected([(0.9, 0, WHOLE), (0.6, 1, WHOLE)]),
    detected([(0.95, 0, [0, 0, 10, 6]), (0.85, 1, WHOLE), (0.7, 1, [50, 0, 60, 10])]),
]
EXPECTED = {
    # The best of image 2 is a wrong a: a has precision 1/2 at every recall, b finds nothing.
    **{"AP@1": 25, "AP@1 r": 50, "AP@1 c": math.nan, "AP@1 f": 0},
    **{"AP@10": 75, "AP@10 r": 50, "AP@10 c": math.nan, "AP@10 f": 100},
    # At 0.7: a one right, one wrong; b both right.
    **{"F1": 250 / 3, "F1 r": 200 / 3, "F1 c": math.nan, "F1 f": 100},
    **{"recall": 100, "recall r": 100, "recall c": math.nan, "recall f": 100},
    **{"nearest acc": 100, "nearest acc r": 100, "nearest acc c": math.nan, "nearest acc f": 100},
    # The wrong a is surer than one of b's.
    **{"surest acc": 75, "surest acc r": 100, "surest acc c": math.nan, "surest acc f": 50},
    "threshold": 70,
}


@pytest.mark.parametrize("modes", [["standard"], ["fixed"]])
def test_two_images_by_hand(tmp_path, modes):
    name = register(tmp_path, two_images())
    evaluator = LVISEvaluator(name, str(tmp_path), modes=modes, decisions=True)
    found = run(evaluator, INPUTS, OUTPUTS)["bbox"]
    plain = run(LVISEvaluator(name, modes=modes), INPUTS, OUTPUTS)["bbox"]
    assert list(found) == [*plain, *EXPECTED]
    np.testing.assert_equal({key: found[key] for key in plain}, plain)
    assert {key: found[key] for key in EXPECTED} == pytest.approx(EXPECTED, nan_ok=True)
    first, second = json.loads((tmp_path / "lvis_evaluation.json").read_text())["categories"]
    assert (first["bbox"]["AP@1"], second["bbox"]["AP@1"]) == (50, 0)
    assert second["bbox"]["surest acc"] == 50 and first["bbox"]["F1"] == pytest.approx(200 / 3)


def test_nothing_found(tmp_path):
    nothing = {"instances": OUTPUTS[0]["instances"][:0]}
    evaluator = LVISEvaluator(register(tmp_path, two_images()), decisions=True)
    found = run(evaluator, INPUTS, [nothing, nothing])["bbox"]
    assert found["AP@1"] == found["F1"] == found["recall"] == 0
    assert math.isnan(found["threshold"]) and math.isnan(found["nearest acc"])


@pytest.mark.parametrize("modes", [("standard",), ("fixed", "pool")])
def test_few_detections_are_those_of_a_lower_limit(tmp_path, monkeypatch, modes):
    monkeypatch.setattr(lvis_evaluator, "PRUNE_EVERY", 100)
    content = make_annotations(3)
    inputs, outputs = make_predictions(content, 4)
    # An image without any comes first, and without masks.
    outputs[0] = {"instances": outputs[0]["instances"][:0]}
    outputs[0]["instances"].remove("pred_masks")
    name = register(tmp_path, content)
    found = run(LVISEvaluator(name, modes=modes, decisions=True), inputs, outputs)["bbox"]
    for limit in (1, 10):
        alone = run(LVISEvaluator(name, max_dets_per_image=limit), inputs, outputs)["bbox"]
        for group in ("", "r", "c", "f"):
            key = f"AP@{limit} {group}".strip()
            np.testing.assert_allclose(found[key], alone[f"AP{group}"], rtol=0, atol=1e-10)
    assert 0 < found["AP@1"] < found["AP@10"]


def test_what_other_modes_leave_out_is_kept(tmp_path, monkeypatch):
    content = make_annotations(3)
    inputs, outputs = make_predictions(content, 4)
    name = register(tmp_path, content)
    expected = run(LVISEvaluator(name, decisions=True), inputs, outputs)["bbox"]
    monkeypatch.setattr(lvis_evaluator, "PRUNE_EVERY", 20)
    monkeypatch.setattr(lvis_matches, "MAX_DETECTIONS_PER_CATEGORY", 2)
    found = run(LVISEvaluator(name, modes=["fixed"], decisions=True), inputs, outputs)["bbox"]
    for key in ("F1", "recall", "threshold", "AP@10", "surest acc"):
        assert found[key] == pytest.approx(expected[key], abs=1e-10)


def test_the_key_turns_them_on(tmp_path):
    cfg = get_cfg()
    assert not cfg.TEST.LVIS.DECISIONS
    cfg.TEST.LVIS.DECISIONS = True
    evaluator = build_evaluator(cfg, register(tmp_path, two_images()))
    assert run(evaluator, INPUTS, OUTPUTS)["bbox"]["threshold"] == pytest.approx(70)
    with pytest.raises(ValueError, match="'bbox' to tasks"):
        LVISEvaluator(register(tmp_path, two_images()), tasks=["segm"], decisions=True)


def test_table():
    lines = format_decisions({key: float(value) for key, value in EXPECTED.items()}).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["bbox", "all", "r", "c", "f"]
    assert rows[2] == ["AP@1", "25.00", "50.00", "nan", "0.00"]
    assert [row[0] for row in rows[4:8]] == ["F1", "recall", "nearest acc", "surest acc"]
    assert "70.00" in lines[8]
