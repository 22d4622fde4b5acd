# SPDX-License-Identifier: Apache-2.0
"""The semantic evaluator against detectron2's, in one process and in two, and its files."""

import csv
import json
import math
import uuid

import numpy as np
import pycocotools.mask as mask_util
import pytest
import scipy.sparse
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator as Detectron2Evaluator
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.testing import flatten_results_dict, verify_results
from PIL import Image

from longtail.evaluation import SemSegEvaluator
from longtail.evaluation.sem_seg.metrics import confusion_matrix, largest_logits
from tests.data.pngs import orientation_chunk, png
from tests.processes import run_in_two_processes

K, H, W = 7, 12, 15
NAMES = [f"class{c}" for c in range(K)]


def make_dataset(folder, num_images=4, seed=0, name=None, **metadata):
    """Register label maps on disk, every class in each, and return (name, inputs, outputs)."""
    rng = np.random.default_rng(seed)
    name = name or f"test_sem_seg_{uuid.uuid4().hex}"
    records, outputs = [], []
    for i in range(num_images):
        labels = rng.integers(0, K, (H, W)).astype(np.uint8)
        labels[0] = 255
        path = str(folder / f"{i}.png")
        Image.fromarray(labels).save(path)
        records.append({"file_name": f"image{i}.jpg", "sem_seg_file_name": path})
        logits = rng.normal(size=(K, H, W)).astype(np.float32)
        rows, columns = np.indices((H, W))
        logits[labels.clip(max=K - 1), rows, columns] += 1.5  # right more often than not
        outputs.append({"sem_seg": torch.from_numpy(logits)})
    DatasetCatalog.register(name, lambda: records)
    settings = {"stuff_classes": NAMES, "ignore_label": 255, "evaluator_type": "sem_seg"}
    MetadataCatalog.get(name).set(**{**settings, **metadata})
    return name, [{"file_name": record["file_name"]} for record in records], outputs


def training_set(folder, names=NAMES):
    """Of one image with 1 + i pixels of the i-th of the names."""
    labels = np.full((H, W), 255, np.uint8)
    labels.flat[: K * (K + 1) // 2] = np.repeat(np.arange(K), np.arange(1, K + 1))
    (folder / "train").mkdir()
    name = make_dataset(folder / "train", 1, stuff_classes=names)[0]
    write_labels(0, name, labels)
    return name


def write_labels(index, name, labels):
    Image.fromarray(labels).save(DatasetCatalog.get(name)[index]["sem_seg_file_name"])


def run(evaluator, inputs, outputs):
    evaluator.reset()
    for one_input, one_output in zip(inputs, outputs, strict=True):
        evaluator.process([one_input], [one_output])
    return evaluator.evaluate()


class TestAgainstDetectron2:
    def test_same_numbers(self, tmp_path):
        name, inputs, outputs = make_dataset(tmp_path)
        ours = run(SemSegEvaluator(name), inputs, outputs)["sem_seg"]
        detectron2_evaluator = Detectron2Evaluator(name, distributed=False)
        theirs = run(detectron2_evaluator, inputs, outputs)["sem_seg"]
        assert 20 < ours["mIoU"] < 90
        pairs = {"mIoU": "mIoU", "fwIoU": "fwIoU", "mAcc": "mACC", "aAcc": "pACC"}
        pairs |= {f"IoU-{c}": f"IoU-{c}" for c in NAMES} | {f"Acc-{c}": f"ACC-{c}" for c in NAMES}
        for key, their_key in pairs.items():
            assert ours[key] == pytest.approx(theirs[their_key], abs=1e-11), key

        confusion = torch.zeros(K, K, dtype=torch.int64)
        for record, output in zip(DatasetCatalog.get(name), outputs, strict=True):
            target = torch.from_numpy(np.array(Image.open(record["sem_seg_file_name"])))
            confusion += confusion_matrix(largest_logits(output["sem_seg"])[1], target, K)
        # detectron2 has the predictions in the rows, and the ignored pixels as a class K.
        expected = detectron2_evaluator._conf_matrix[:K, :K].T
        np.testing.assert_array_equal(confusion.numpy(), expected)

    def test_class_that_never_occurs(self, tmp_path):
        name, inputs, outputs = make_dataset(tmp_path, 2)
        for i, output in enumerate(outputs):
            write_labels(i, name, np.full((H, W), 3 * i, np.uint8))  # only classes 0 and 3
            output["sem_seg"][[1, 2, 4, 5, 6]] = -100.0
        ours = run(SemSegEvaluator(name), inputs, outputs)["sem_seg"]
        theirs = run(Detectron2Evaluator(name, distributed=False), inputs, outputs)["sem_seg"]
        assert ours["mIoU"] == pytest.approx(theirs["mIoU"], abs=1e-11)
        assert ours["mIoU"] == pytest.approx((ours["IoU-class0"] + ours["IoU-class3"]) / 2)
        assert math.isnan(ours["IoU-class5"]) and math.isnan(theirs["IoU-class5"])

    def test_same_predictions_file(self, tmp_path):
        ids = {10 * c + 1: c for c in range(K)}
        name, inputs, outputs = make_dataset(tmp_path, stuff_dataset_id_to_contiguous_id=ids)
        ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
        run(SemSegEvaluator(name, output_dir=ours, write_predictions=True), inputs, outputs)
        run(Detectron2Evaluator(name, False, theirs), inputs, outputs)
        files = [tmp_path / x / "sem_seg_predictions.json" for x in ("ours", "theirs")]
        ours, theirs = (json.loads(file.read_text()) for file in files)
        assert ours == theirs
        labels = outputs[0]["sem_seg"].argmax(dim=0).numpy()
        first = next(r for r in ours if r["category_id"] == 31)  # 10 c + 1 of class 3
        np.testing.assert_array_equal(mask_util.decode(first["segmentation"]), labels == 3)

    def test_works_inside_detectron2(self, tmp_path):
        name, inputs, outputs = make_dataset(tmp_path)
        by_name = {i["file_name"]: o for i, o in zip(inputs, outputs, strict=True)}

        def model(batch):
            return [by_name[x["file_name"]] for x in batch]

        results = inference_on_dataset(model, [inputs[:3], inputs[3:]], SemSegEvaluator(name))
        assert results == run(SemSegEvaluator(name), inputs, outputs)
        cfg = get_cfg()
        cfg.TEST.EXPECTED_RESULTS = [["sem_seg", "mIoU-tail", results["sem_seg"]["mIoU-tail"], 0.1]]
        assert verify_results(cfg, results)
        assert all(isinstance(value, float) for value in flatten_results_dict(results).values())


class TestGroups:
    def test_metadata_then_argument_then_training_pixels(self, tmp_path):
        groups = {"head": [6, 0], "body": [1, 2], "tail": [3, 4, 5]}
        name, inputs, outputs = make_dataset(tmp_path, class_groups=groups)
        evaluator = SemSegEvaluator(name, training_sets=(training_set(tmp_path),))
        results = run(evaluator, inputs, outputs)["sem_seg"]
        tail = [results[f"IoU-class{c}"] for c in (3, 4, 5)]
        assert results["mIoU-tail"] == pytest.approx(sum(tail) / 3, abs=1e-12)
        mine = {"odd": [1, 3, 5], "even": [0, 2, 4, 6]}
        results = run(SemSegEvaluator(name, class_groups=mine), inputs, outputs)["sem_seg"]
        odd = [results[f"Acc-class{c}"] for c in (1, 3, 5)]
        assert results["mAcc-odd"] == pytest.approx(sum(odd) / 3, abs=1e-12)
        assert "mIoU-tail" not in results

    @pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
    def test_training_pixels_decide_without_groups(self, tmp_path, names):
        """Also if the training set has the classes in another order."""
        name, inputs, outputs = make_dataset(tmp_path)
        train = training_set(tmp_path, names)
        evaluator = SemSegEvaluator(name, output_dir=str(tmp_path / "out"), training_sets=(train,))
        results = run(evaluator, inputs, outputs)["sem_seg"]
        order = [int(name.removeprefix("class")) for name in names]
        tail = [results[f"IoU-class{c}"] for c in order[:2]]  # the fewest training pixels
        assert results["mIoU-tail"] == pytest.approx(sum(tail) / 2, abs=1e-12)
        report = json.loads((tmp_path / "out" / "sem_seg_evaluation.json").read_text())
        for place, index in enumerate(order):
            row = report["classes"][index]
            assert (row["train_pixels"], row["train_images"]) == (place + 1, 1)
            assert row["train_share"] == pytest.approx(100 * (place + 1) / 28, abs=1e-12)

    def test_evaluated_ground_truth_decides_last(self, tmp_path, caplog):
        name, inputs, outputs = make_dataset(tmp_path, 1)
        labels = np.repeat(np.arange(K, dtype=np.uint8), [60, 50, 40, 15, 9, 4, 2]).reshape(H, W)
        write_labels(0, name, labels)
        with caplog.at_level("WARNING", logger="longtail"):
            results = run(SemSegEvaluator(name, training_sets=("gone",)), inputs, outputs)[
                "sem_seg"
            ]
        assert "gone is not registered" in caplog.text and "by the evaluated pixels" in caplog.text
        tail = [results[f"IoU-class{c}"] for c in (5, 6)]
        assert results["mIoU-tail"] == pytest.approx(sum(tail) / 2, abs=1e-12)


class TestFiles:
    def test_json_and_csv_hold_the_results(self, tmp_path):
        name, inputs, outputs = make_dataset(tmp_path, 1)
        labels = np.zeros((H, W), np.uint8)
        labels[:, :5] = 2  # 5 of 15 columns
        write_labels(0, name, labels)
        folder = tmp_path / "new" / "folder"
        results = run(SemSegEvaluator(name, output_dir=str(folder)), inputs, outputs)["sem_seg"]
        written = sorted(path.name for path in folder.iterdir())
        files = ["confusion_matrix.npz", "sem_seg_evaluation.csv", "sem_seg_evaluation.json"]
        assert written == files

        report = json.loads((folder / "sem_seg_evaluation.json").read_text())
        assert (report["dataset"], report["num_images"]) == (name, 1)
        assert report["mIoU"] == results["mIoU"] and report["aAcc"] == results["aAcc"]
        assert report["groups"]["head"]["mIoU"] == results["mIoU-head"]
        assert report["classes"][5]["IoU"] is None

        with open(folder / "sem_seg_evaluation.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == NAMES
        assert rows[2]["group"] == "head" and rows[6]["group"] == "tail"
        assert int(rows[2]["test_pixels"]) == 5 * H
        matrix = scipy.sparse.load_npz(folder / "confusion_matrix.npz").toarray()
        expected = np.zeros((K, K), int)
        np.add.at(expected, (labels, outputs[0]["sem_seg"].argmax(dim=0).numpy()), 1)
        np.testing.assert_array_equal(matrix, expected)
        assert float(rows[2]["IoU"]) == results["IoU-class2"]
        assert float(rows[2]["Acc"]) == results["Acc-class2"]
        assert rows[5]["IoU"] == rows[5]["Acc"] == ""

    def test_table_is_logged(self, tmp_path, caplog):
        name, inputs, outputs = make_dataset(tmp_path)
        with caplog.at_level("INFO", logger="longtail"):
            results = run(SemSegEvaluator(name), inputs, outputs)["sem_seg"]
        assert f"{results['IoU-class4']:.2f}" in caplog.text
        assert f"{results['mIoU-tail']:.2f}" in caplog.text

    def test_palette_images_are_indices(self, tmp_path):
        name, inputs, outputs = make_dataset(tmp_path)
        expected = run(SemSegEvaluator(name), inputs, outputs)
        for record in DatasetCatalog.get(name):
            image = Image.open(record["sem_seg_file_name"])
            image.load()
            image.putpalette([value % 256 for value in range(5, 773)])
            image.save(record["sem_seg_file_name"])
        assert Image.open(DatasetCatalog.get(name)[0]["sem_seg_file_name"]).mode == "P"
        assert run(SemSegEvaluator(name), inputs, outputs) == expected

    def test_labels_of_few_bits(self, tmp_path):
        name, inputs, outputs = make_dataset(tmp_path, 1)
        labels = np.indices((H, W)).sum(axis=0) % K
        write_labels(0, name, labels.astype(np.uint8))
        expected = run(SemSegEvaluator(name), inputs, outputs)
        (tmp_path / "0.png").write_bytes(png(labels.tolist(), 4))
        assert run(SemSegEvaluator(name), inputs, outputs) == expected


def test_a_model_with_the_classes_in_another_order(tmp_path):
    """A cyclic permutation, so that it differs from its inverse."""
    name, inputs, outputs = make_dataset(tmp_path)
    expected = run(SemSegEvaluator(name), inputs, outputs)
    model_classes = NAMES[2:] + NAMES[:2]
    other = make_dataset(tmp_path, model_classes=model_classes)[0]
    permuted = [{"sem_seg": torch.roll(output["sem_seg"], -2, 0)} for output in outputs]
    assert run(SemSegEvaluator(other), inputs, permuted) == expected


class TestBadInput:
    @pytest.fixture
    def case(self, tmp_path):
        return make_dataset(tmp_path, 1)

    def check(self, case, message, error=ValueError, logits=None):
        name, inputs, outputs = case
        outputs = outputs if logits is None else [{"sem_seg": logits}]
        with pytest.raises(error, match=message):
            SemSegEvaluator(name).process(inputs, outputs)

    def test_unknown_image(self, case):
        self.check((case[0], [{"file_name": "other.jpg"}], case[2]), "other.jpg is not an image of")

    def test_size(self, case):
        message = r"image0.jpg: expected logits.*\(7, 12, 15\).*0.png.*got \(7, 12, 14\)"
        self.check(case, message, logits=torch.zeros(K, H, W - 1))

    def test_size_of_the_pair(self, tmp_path):
        """The image is turned, the labels are not: not the model's fault."""
        image, labels = tmp_path / "image.png", tmp_path / "labels.png"
        image.write_bytes(png([[0] * W] * H, before=orientation_chunk(6)))
        labels.write_bytes(png([[0] * W] * H))
        name = f"test_sem_seg_{uuid.uuid4().hex}"
        record = {"file_name": str(image), "sem_seg_file_name": str(labels)}
        DatasetCatalog.register(name, lambda: [record])
        MetadataCatalog.get(name).set(stuff_classes=NAMES, evaluator_type="sem_seg")
        message = rf"labels\.png has size {W}x{H}, but its image {H}x{W}, as its EXIF orientation 6"
        case = (name, [record], [{"sem_seg": torch.zeros(K, W, H)}])
        self.check(case, message)

    def test_number_of_classes(self, case):
        self.check(case, r"got \(8, 12, 15\); the model must", logits=torch.zeros(K + 1, H, W))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_logits_that_are_not_finite(self, case, value):
        # In one pixel of one class, and everywhere.
        logits = case[2][0]["sem_seg"].clone()
        logits[3, 2, 4] = value
        for bad in (logits, torch.full_like(logits, value)):
            self.check(case, r"image0.jpg: logits are not finite", logits=bad)

    def test_label_out_of_range(self, case):
        write_labels(0, case[0], np.full((H, W), 9, np.uint8))
        self.check(case, r"0.png: .*target has the value 9, expected 0..6")

    def test_colour_image(self, case):
        write_labels(0, case[0], np.zeros((H, W, 3), np.uint8))
        self.check(case, r"0.png has mode RGB, but a label map has one 8-bit")

    def test_missing_and_broken_file(self, case, tmp_path):
        content = (tmp_path / "0.png").read_bytes()
        (tmp_path / "0.png").write_bytes(content[: len(content) // 2])
        self.check(case, r"0.png cannot be read as an image")
        (tmp_path / "0.png").unlink()
        self.check(case, r"0.png is missing", FileNotFoundError)

    def test_nothing_evaluated(self, case, tmp_path):
        evaluator = SemSegEvaluator(case[0], output_dir=str(tmp_path / "out"))
        with pytest.raises(ValueError, match="0 images with no labelled pixel"):
            evaluator.evaluate()
        assert not (tmp_path / "out").exists()

    def test_construction(self, case, tmp_path):
        name = case[0]
        with pytest.raises(ValueError, match="'no_such_set' is not registered"):
            SemSegEvaluator("no_such_set")
        with pytest.raises(ValueError, match="write_predictions needs an output_dir"):
            SemSegEvaluator(name, write_predictions=True)
        with pytest.raises(ValueError, match=r"each class index 0\.\.6 exactly once"):
            SemSegEvaluator(name, class_groups={"head": [0, 1], "tail": [1, 2]})
        others = make_dataset(tmp_path, 1, stuff_classes=[*NAMES[1:], "another"])[0]
        with pytest.raises(ValueError, match=r"training set .* different classes"):
            SemSegEvaluator(name, training_sets=(others,))
        nameless = make_dataset(tmp_path, 1, stuff_classes=[])[0]
        with pytest.raises(ValueError, match="has no stuff_classes"):
            SemSegEvaluator(nameless)


# Which process sees which images; in the second case one has seen nothing.
SHARES = {"even": ([0, 2], [1, 3]), "one_idle": ([0, 1, 2, 3], [])}


def evaluate_in_process(rank, folder):
    labels = folder / str(rank)  # each process writes its own, equal label maps
    labels.mkdir()
    name, inputs, outputs = make_dataset(labels, name="in_two_processes")
    for case, shares in SHARES.items():
        evaluator = SemSegEvaluator(name, output_dir=str(folder / case), write_predictions=True)
        mine = shares[rank]
        results = run(evaluator, [inputs[i] for i in mine], [outputs[i] for i in mine])
        assert (results is None) == (rank != 0)


def test_two_processes_equal_one(tmp_path):
    name, inputs, outputs = make_dataset(tmp_path)
    evaluator = SemSegEvaluator(name, output_dir=str(tmp_path / "alone"), write_predictions=True)
    run(evaluator, inputs, outputs)
    run_in_two_processes(evaluate_in_process, tmp_path)

    def read(folder):
        report = json.loads((tmp_path / folder / "sem_seg_evaluation.json").read_text())
        predictions = json.loads((tmp_path / folder / "sem_seg_predictions.json").read_text())
        del report["dataset"], report["provenance"]["time"]
        return report, sorted(predictions, key=lambda p: (p["file_name"], p["category_id"]))

    for case in SHARES:
        assert read(case) == read("alone"), case
