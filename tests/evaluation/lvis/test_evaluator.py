# SPDX-License-Identifier: Apache-2.0
"""The LVIS evaluator: a case by hand, fixed and pooled AP, what is kept, two processes."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from longtail.evaluation import LVISEvaluator
from longtail.evaluation.lvis import detections as lvis_detections
from longtail.evaluation.lvis import evaluator as lvis_evaluator
from longtail.evaluation.lvis import matches as lvis_matches
from tests.evaluation.lvis.reference import reference
from tests.evaluation.lvis.scenes import H, W, make_annotations, make_predictions, register, run
from tests.processes import run_in_two_processes

MODES = ("standard", "fixed", "pool")


def two_images():
    """Category 1 (rare) in image 1, verified absent in image 2; 2 (frequent) twice in image 2."""
    image = {"height": H, "width": W, "not_exhaustive_category_ids": []}
    annotation = {"area": 100, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]}
    return {
        "images": [
            {**image, "id": 1, "neg_category_ids": []},
            {**image, "id": 2, "neg_category_ids": [1]},
        ],
        "annotations": [
            {**annotation, "id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
            {**annotation, "id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 10, 10]},
            {**annotation, "id": 3, "image_id": 2, "category_id": 2, "bbox": [50, 0, 10, 10]},
        ],
        "categories": [
            {"id": 1, "name": "a", "frequency": "r", "image_count": 5},
            {"id": 2, "name": "b", "frequency": "f", "image_count": 500},
        ],
    }


def instances(rows):
    """From (score, class, box) rows."""
    return Instances(
        (H, W),
        pred_boxes=Boxes(torch.tensor([row[2] for row in rows], dtype=torch.float32)),
        scores=torch.tensor([row[0] for row in rows]),
        pred_classes=torch.tensor([row[1] for row in rows]),
    )


def two_predictions():
    whole = [0.0, 0, 10, 10]
    first = [(0.99, 1, whole), (0.9, 0, whole)]  # the first one can count for nothing
    second = [(0.95, 0, whole), (0.85, 1, [0.0, 0, 10, 6.2]), (0.8, 0, whole)]
    outputs = [{"instances": instances(first)}, {"instances": instances(second)}]
    return [{"image_id": 1}, {"image_id": 2}], outputs


class TestByHand:
    # Category a, one annotation: wrong, right, wrong. Precision 1/2 at every recall.
    # Category b, two annotations: one found with IoU 0.62, right at 3 of 10 thresholds. There
    # precision is 1 up to recall 0.5, which are 51 of the 101 recalls.
    A, B = 0.5, 0.3 * 51 / 101

    def test_standard_and_fixed(self, tmp_path):
        inputs, outputs = two_predictions()
        name = register(tmp_path, two_images())
        results = run(LVISEvaluator(name, modes=("standard", "fixed")), inputs, outputs)["bbox"]
        for ending in ("", "_fixed"):
            assert results[f"AP{ending}"] == pytest.approx(100 * (self.A + self.B) / 2)
            assert results[f"AP50{ending}"] == pytest.approx(100 * (0.5 + 51 / 101) / 2)
            assert results[f"AP75{ending}"] == pytest.approx(25)
            assert results[f"APr{ending}"] == pytest.approx(100 * self.A)
            assert results[f"APf{ending}"] == pytest.approx(100 * self.B)
            assert np.isnan(results[f"APc{ending}"]) and np.isnan(results[f"APm{ending}"])

    def test_pooled(self, tmp_path):
        """Three annotations; ranked wrong, right, b's, wrong.

        Where b's is right, precision is 2/3 up to recall 2/3 (67 recalls), otherwise 1/2 up to
        1/3 (34 recalls).
        """
        inputs, outputs = two_predictions()
        results = run(
            LVISEvaluator(register(tmp_path, two_images()), modes=["pool"]), inputs, outputs
        )
        expected = 0.3 * 67 / 101 * 2 / 3 + 0.7 * 34 / 101 / 2
        assert list(results["bbox"]) == ["AP_pool", "APr_pool", "APc_pool", "APf_pool"]
        assert results["bbox"]["AP_pool"] == pytest.approx(100 * expected)
        assert results["bbox"]["APr_pool"] == pytest.approx(100 * self.A)
        assert results["bbox"]["APf_pool"] == pytest.approx(100 * self.B)

    def test_a_detection_that_counts_for_nothing_takes_up_a_place(self, tmp_path):
        inputs, outputs = two_predictions()
        name = register(tmp_path, two_images())
        evaluator = LVISEvaluator(name, modes=["standard", "fixed"], max_dets_per_image=1)
        results = run(evaluator, inputs, outputs)["bbox"]
        assert results["AP"] == 0  # of image 2 only a wrong one is left
        assert results["AP_fixed"] == pytest.approx(100 * (self.A + self.B) / 2)

    def test_nothing_predicted(self, tmp_path):
        outputs = [{"instances": instances([(0.5, 0, [0.0, 0, 1, 1])])[:0]}] * 2
        evaluator = LVISEvaluator(register(tmp_path, two_images()), modes=MODES)
        results = run(evaluator, [{"image_id": 1}, {"image_id": 2}], outputs)
        assert results["bbox"]["AP"] == results["bbox"]["AP_pool"] == 0

    def test_precision_recall(self, tmp_path):
        inputs, outputs = two_predictions()
        evaluator = LVISEvaluator(register(tmp_path, two_images()))
        run(evaluator, inputs, outputs)
        curves = evaluator.precision_recall("bbox")
        assert curves.shape == (10, 101, 2, 4)
        np.testing.assert_allclose(curves[:, :, 0, 0], 0.5)
        expected = np.zeros((10, 101))
        expected[:3, :51] = 1
        np.testing.assert_allclose(curves[:, :, 1, 0], expected)
        with pytest.raises(ValueError, match=r"no curves of task 'segm'.*bbox"):
            evaluator.precision_recall("segm")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("limit", [25, 10_000])
def test_fixed_and_pooled_against_plain_loops(tmp_path, monkeypatch, seed, limit):
    monkeypatch.setattr(lvis_matches, "MAX_DETECTIONS_PER_CATEGORY", limit)
    monkeypatch.setattr(lvis_evaluator, "PRUNE_EVERY", 150)  # several times on the way
    content = make_annotations(seed, num_images=6)
    inputs, outputs = make_predictions(content, seed)
    evaluator = LVISEvaluator(register(tmp_path, content), modes=["fixed", "pool"])
    results = run(evaluator, inputs, outputs)
    kept = sum(len(matches) for matches in evaluator._seen.matches)
    assert kept <= (limit * 12 + 2 * 150 if limit == 25 else 700)
    for task in ("bbox", "segm"):
        expected = reference(content, inputs, outputs, task, limit)
        assert list(results[task]) == list(expected)
        np.testing.assert_allclose(
            list(results[task].values()), list(expected.values()), rtol=0, atol=1e-10
        )


def test_modes_share_one_pass(tmp_path, monkeypatch):
    """Together they give what each gives alone, pruned or not."""
    content = make_annotations(5)
    inputs, outputs = make_predictions(content, 6)
    name = register(tmp_path, content)
    alone = {}
    for mode in MODES:
        for task, values in run(LVISEvaluator(name, modes=[mode]), inputs, outputs).items():
            alone.setdefault(task, {}).update(values)
    monkeypatch.setattr(lvis_evaluator, "PRUNE_EVERY", 100)
    np.testing.assert_equal(dict(run(LVISEvaluator(name, modes=MODES), inputs, outputs)), alone)


class TestWhatIsKept:
    def prepare(self, tmp_path):
        content = make_annotations(8)
        return content, register(tmp_path, content), *make_predictions(content, 9)

    def test_dropping_changes_no_figure(self, tmp_path, monkeypatch):
        _, name, inputs, outputs = self.prepare(tmp_path)
        encoded = []
        encode = lvis_detections.encode_masks

        def counting(instances, indices):
            encoded.append(len(indices))
            return encode(instances, indices)

        monkeypatch.setattr(lvis_evaluator, "encode_masks", counting)
        results, counts = {}, {}
        for keep in (False, True):
            folder = tmp_path / str(keep)
            evaluator = LVISEvaluator(name, str(folder), keep_all_detections=keep)
            encoded.clear()
            results[keep] = run(evaluator, inputs, outputs)
            written = json.loads((folder / "lvis_instances_results.json").read_text())
            assert len(written) == sum(encoded)
            counts[keep] = len(written)
        np.testing.assert_equal(results[True], results[False])
        assert counts[True] == sum(min(300, len(output["instances"])) for output in outputs)
        assert counts[False] < 0.8 * counts[True]

    def test_results_file_holds_the_predictions(self, tmp_path):
        _, name, inputs, outputs = self.prepare(tmp_path)
        run(LVISEvaluator(name, str(tmp_path), keep_all_detections=True), inputs, outputs)
        written = json.loads((tmp_path / "lvis_instances_results.json").read_text())
        last = [row for row in written if row["image_id"] == inputs[-1]["image_id"]]
        found = outputs[-1]["instances"]
        order = np.argsort(-found.scores.numpy(), kind="stable")
        for row, n in zip(last, order, strict=True):
            x0, y0, x1, y1 = found.pred_boxes.tensor[n].tolist()
            assert row["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert row["score"] == float(found.scores[n])
            assert row["category_id"] == int(found.pred_classes[n]) + 1
            mask = mask_util.decode(row["segmentation"])
            np.testing.assert_array_equal(mask, found.pred_masks[n].numpy())

    def test_report(self, tmp_path):
        _, name, inputs, outputs = self.prepare(tmp_path)
        results = run(LVISEvaluator(name, str(tmp_path), modes=MODES), inputs, outputs)
        report = json.loads((tmp_path / "lvis_evaluation.json").read_text())
        expected = {n: None if np.isnan(v) else v for n, v in results["segm"].items()}
        assert report["tasks"]["segm"] == pytest.approx(expected)
        assert report["num_images"] == len(inputs)
        rows = report["categories"]
        assert [row["id"] for row in rows] == list(range(1, 13))
        assert (rows[2]["name"], rows[2]["frequency"], rows[2]["train_images"]) == ("name2", "r", 6)
        for key in ("AP", "AP_fixed"):
            known = [r["bbox"][key] for r in rows if r["bbox"][key] is not None]
            assert np.mean(known) == pytest.approx(results["bbox"][key])
        assert rows[9]["segm"] == {"AP": None, "AP_fixed": None}  # only verified to be absent

    def test_without_output_dir_nothing_is_written(self, tmp_path, monkeypatch):
        _, name, inputs, outputs = self.prepare(tmp_path)
        before = set(tmp_path.iterdir())
        monkeypatch.chdir(tmp_path)
        run(LVISEvaluator(name), inputs, outputs)
        assert set(tmp_path.iterdir()) == before

    def test_a_test_set_without_annotations(self, tmp_path):
        content, _, inputs, outputs = self.prepare(tmp_path)
        del content["annotations"]
        for image in content["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        name = register(tmp_path, content)
        assert run(LVISEvaluator(name, str(tmp_path)), inputs, outputs) == {}
        written = json.loads((tmp_path / "lvis_instances_results.json").read_text())
        assert len(written) == sum(min(300, len(output["instances"])) for output in outputs)


SHARES = {
    "halves": ([0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]),
    "all and none": (list(range(12)), []),
    "none and all": ([], list(range(12))),
}


def evaluate_in_process(rank, folder):
    content = make_annotations(12)
    inputs, outputs = make_predictions(content, 13)
    path = folder / f"annotations{rank}.json"
    path.write_text(json.dumps(content))
    DatasetCatalog.register("in_two_processes", list)
    MetadataCatalog.get("in_two_processes").set(json_file=str(path))
    for case, shares in SHARES.items():
        evaluator = LVISEvaluator(
            "in_two_processes", str(folder / case), modes=MODES, decisions=True
        )
        mine = shares[rank]
        results = run(evaluator, [inputs[i] for i in mine], [outputs[i] for i in mine])
        assert (results is None) == (rank != 0)


def test_two_processes_equal_one(tmp_path):
    content = make_annotations(12)
    inputs, outputs = make_predictions(content, 13)
    name, folder = register(tmp_path, content), str(tmp_path / "alone")
    evaluator = LVISEvaluator(name, folder, modes=MODES, decisions=True)
    run(evaluator, inputs, outputs)
    run_in_two_processes(evaluate_in_process, tmp_path)

    def read(folder):
        report = json.loads((tmp_path / folder / "lvis_evaluation.json").read_text())
        del report["dataset"], report["provenance"]
        return report, (tmp_path / folder / "lvis_instances_results.json").read_bytes()

    for case in SHARES:
        assert read(case) == read("alone"), case
