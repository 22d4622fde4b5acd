# SPDX-License-Identifier: Apache-2.0
"""The evaluator of image classification inside detectron2: files, groups, processes, errors."""

import csv
import json
import logging
import math
import os

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.testing import flatten_results_dict, print_csv_format, verify_results

from longtail.config import get_cfg
from longtail.evaluation import ClassificationEvaluator, build_evaluator
from tests.processes import run_in_two_processes

TRAIN, TEST = "evaluator_labels_train", "evaluator_labels_test"
NAMES = ["oak", "elm", "fir", "yew", "ash", "bay"]
# More than 100: many; 20 to 100: medium; fewer: few.
TRAIN_IMAGES = [150, 101, 100, 20, 19, 1]
GROUPS = {"many": [0, 1], "medium": [2, 3], "few": [4, 5]}
TEST_LABELS = [0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 5]


def register(name, labels, training_set=TRAIN, **metadata):
    records = [{"file_name": f"{i}.jpg", "image_id": i, "label": c} for i, c in enumerate(labels)]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        evaluator_type="classification",
        training_set=training_set,
        load_labels=lambda: list(labels),
        **{"thing_classes": NAMES, **metadata},
    )


def register_both():
    register(TRAIN, [c for c, count in enumerate(TRAIN_IMAGES) for _ in range(count)])
    register(TEST, TEST_LABELS)


def unregister(*names):
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(autouse=True)
def data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    register_both()
    yield
    unregister(TRAIN, TEST)


def make_outputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(TEST_LABELS), len(NAMES), generator=generator)
    scores[torch.arange(len(scores)), TEST_LABELS] += 1
    return [{"scores": row.softmax(dim=0)} for row in scores]


INPUTS = [{"image_id": i, "file_name": f"{i}.jpg"} for i in range(len(TEST_LABELS))]


def run(evaluator, inputs=INPUTS, outputs=None):
    evaluator.reset()
    outputs = make_outputs() if outputs is None else outputs
    for one, other in zip(inputs, outputs, strict=True):
        evaluator.process([one], [other])
    return evaluator.evaluate()


def expected_figures():
    """In plain loops."""
    right = {c: [] for c in range(len(NAMES))}
    top5 = 0
    for label, output in zip(TEST_LABELS, make_outputs(), strict=True):
        order = sorted(range(len(NAMES)), key=lambda c: -output["scores"][c].item())
        right[label].append(order[0] == label)
        top5 += label in order[:5]
    acc = {c: 100 * sum(r) / len(r) for c, r in right.items()}
    figures = {
        "top1": 100 * sum(map(sum, right.values())) / len(TEST_LABELS),
        "top5": 100 * top5 / len(TEST_LABELS),
        "mean_acc": sum(acc.values()) / len(acc),
    }
    for group, classes in GROUPS.items():
        figures[f"mean_acc-{group}"] = sum(acc[c] for c in classes) / len(classes)
    return figures | {f"acc-{name}": acc[c] for c, name in enumerate(NAMES)}


def test_figures():
    given = run(ClassificationEvaluator(TEST))
    assert list(given) == ["classification"]
    assert given["classification"] == pytest.approx(expected_figures(), abs=1e-10)
    assert 30 < given["classification"]["top1"] < 95


def test_order_and_batches_change_nothing():
    evaluator, outputs = ClassificationEvaluator(TEST), make_outputs()
    expected = run(evaluator)
    assert run(evaluator, INPUTS[::-1], outputs[::-1]) == expected
    evaluator.reset()
    evaluator.process(INPUTS, outputs)
    assert evaluator.evaluate() == expected


def test_files(tmp_path):
    given = run(ClassificationEvaluator(TEST, output_dir=str(tmp_path)))["classification"]
    report = json.loads((tmp_path / "classification_evaluation.json").read_text())
    assert (report["dataset"], report["num_images"]) == (TEST, 12)
    assert {key: report[key] for key in ("top1", "top5", "mean_acc")} == {
        key: given[key] for key in ("top1", "top5", "mean_acc")
    }
    for group, classes in GROUPS.items():
        mean = given[f"mean_acc-{group}"]
        assert report["groups"][group] == {"mean_acc": mean, "num_classes": len(classes)}
    with open(tmp_path / "classification_evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for c, (row, other) in enumerate(zip(report["classes"], rows, strict=True)):
        group = next(name for name, classes in GROUPS.items() if c in classes)
        assert row == {
            "index": c,
            "name": NAMES[c],
            "group": group,
            "train_images": TRAIN_IMAGES[c],
            "test_images": TEST_LABELS.count(c),
            "acc": given[f"acc-{NAMES[c]}"],
        }
        assert other == {key: str(value) for key, value in row.items()}


def test_a_class_without_test_images(tmp_path):
    """Is left out of the means: nan here, null in the JSON, empty in the CSV."""
    run_on = [i for i in range(len(TEST_LABELS)) if TEST_LABELS[i] != 3]
    evaluator = ClassificationEvaluator(TEST, output_dir=str(tmp_path))
    outputs = make_outputs()
    given = run(evaluator, [INPUTS[i] for i in run_on], [outputs[i] for i in run_on])
    figures = expected_figures()
    given = given["classification"]
    assert math.isnan(given["acc-yew"])
    assert given["mean_acc-medium"] == pytest.approx(figures["acc-fir"])
    others = [figures[f"acc-{name}"] for name in NAMES if name != "yew"]
    assert given["mean_acc"] == pytest.approx(sum(others) / 5)
    report = json.loads((tmp_path / "classification_evaluation.json").read_text())
    assert report["classes"][3]["acc"] is None
    lines = (tmp_path / "classification_evaluation.csv").read_text().splitlines()
    assert lines[4] == "3,yew,medium,20,0,"


def test_inside_detectron2(tmp_path, caplog):
    by_id = {i["image_id"]: o for i, o in zip(INPUTS, make_outputs(), strict=True)}

    def model(batch):
        return [by_id[item["image_id"]] for item in batch]

    evaluator = build_evaluator(get_cfg(), TEST, str(tmp_path))
    assert isinstance(evaluator, ClassificationEvaluator)
    with caplog.at_level(logging.INFO):
        results = inference_on_dataset(model, [INPUTS[:5], INPUTS[5:]], evaluator)
        print_csv_format(results)
    assert results == run(ClassificationEvaluator(TEST))
    assert "| medium" in caplog.text and "top1" in caplog.text
    # Figures of groups and classes are not among the ones to copy.
    assert "copypaste: top1,top5,mean_acc" in caplog.text
    cfg = get_cfg()
    expected = results["classification"]["mean_acc-few"]
    cfg.TEST.EXPECTED_RESULTS = [["classification", "mean_acc-few", expected, 0.1]]
    assert verify_results(cfg, results)
    assert all(isinstance(value, float) for value in flatten_results_dict(results).values())


def worker(rank, folder):
    os.environ["LONGTAIL_CACHE"] = str(folder / "cache")
    register_both()
    outputs = make_outputs()
    results = {}
    # The second process has one image, then none, then one that the first has, too.
    for case, (first, second) in {"uneven": (11, 11), "none": (12, 12), "twice": (8, 7)}.items():
        own = slice(None, first) if rank == 0 else slice(second, None)
        evaluator = ClassificationEvaluator(TEST, output_dir=str(folder / case))
        try:
            results[case] = run(evaluator, INPUTS[own], outputs[own])
        except ValueError as error:
            results[case] = str(error)
    torch.save(results, folder / f"{rank}.pth")


def test_two_processes(tmp_path):
    folder = tmp_path / "processes"
    folder.mkdir()
    run_in_two_processes(worker, folder)
    main, other = (torch.load(folder / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    expected = run(ClassificationEvaluator(TEST, output_dir=str(tmp_path / "one")))
    for case in ("uneven", "none"):
        assert main[case] == expected and other[case] is None
        reports = [
            json.loads((place / "classification_evaluation.json").read_text())
            for place in (folder / case, tmp_path / "one")
        ]
        # Only the time is another.
        assert all(report.pop("provenance")["time"] for report in reports)
        assert reports[0] == reports[1]
        name = "classification_evaluation.csv"
        assert (folder / case / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert "image_id 7 of 'evaluator_labels_test' was evaluated twice" in main["twice"]


def test_without_the_training_set_there_are_no_groups(caplog, tmp_path):
    def missing():
        raise FileNotFoundError("the list train.txt is missing")

    MetadataCatalog.remove(TRAIN)
    MetadataCatalog.get(TRAIN).set(thing_classes=NAMES, load_labels=missing)
    with caplog.at_level(logging.WARNING):
        given = run(ClassificationEvaluator(TEST, output_dir=str(tmp_path)))["classification"]
    assert "not known" in caplog.text and "the list train.txt is missing" in caplog.text
    expected = {k: v for k, v in expected_figures().items() if not k.startswith("mean_acc-")}
    assert given == pytest.approx(expected, abs=1e-10)
    lines = (tmp_path / "classification_evaluation.csv").read_text().splitlines()
    assert lines[0] == "index,name,group,test_images,acc"
    assert lines[1].startswith("0,oak,,3,")


def other_set(**options):
    register("evaluator_labels_other", TEST_LABELS, **options)
    try:
        return ClassificationEvaluator("evaluator_labels_other")
    finally:
        unregister("evaluator_labels_other")


def test_a_set_without_training_set(caplog):
    with caplog.at_level(logging.WARNING):
        given = run(other_set(training_set=None))["classification"]
    assert list(given) == ["top1", "top5", "mean_acc", *(f"acc-{name}" for name in NAMES)]
    assert "few training images: register it with its training_set" in caplog.text


def test_sets_that_cannot_be_evaluated():
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        ClassificationEvaluator("nowhere")
    with pytest.raises(ValueError, match="has no thing_classes"):
        other_set(thing_classes=None)
    with pytest.raises(ValueError, match=r"its training set .* have different classes"):
        other_set(thing_classes=[*NAMES[:5], "sea"])


def test_a_training_set_with_the_classes_in_another_order():
    """The first of the reversed classes is bay, of which there is one image."""
    labels = [5 - label for label in TEST_LABELS]
    register("evaluator_labels_other", labels, thing_classes=NAMES[::-1])
    try:
        evaluator = ClassificationEvaluator("evaluator_labels_other")
        reversed_outputs = [{"scores": output["scores"].flip(0)} for output in make_outputs()]
        given = run(evaluator, outputs=reversed_outputs)["classification"]
    finally:
        unregister("evaluator_labels_other")
    expected = run(ClassificationEvaluator(TEST))["classification"]
    assert given == pytest.approx({key: expected[key] for key in given})
    assert any("many" in key for key in given) and any("few" in key for key in given)


@pytest.mark.parametrize(
    ("image_id", "scores", "message"),
    [
        (99, torch.zeros(6), "image_id 99 .* 'evaluator_labels_test'"),
        (0, torch.zeros(6), "image_id 0 of 'evaluator_labels_test' was evaluated twice"),
        (1, torch.zeros(5), r"expected scores of shape \(6,\), .*, got \(5,\)"),
        (1, torch.tensor([0.0, 0, math.nan, 0, 0, 0]), "image_id 1: scores are not finite"),
        (1, torch.tensor([0.0, 0, -math.inf, 0, 0, 0]), "image_id 1: scores are not finite"),
    ],
    ids=["foreign", "twice", "shape", "nan", "inf"],
)
def test_outputs_that_cannot_be_evaluated(image_id, scores, message):
    evaluator = ClassificationEvaluator(TEST)
    evaluator.process(INPUTS[:1], make_outputs()[:1])
    with pytest.raises(ValueError, match=message) as info:
        evaluator.process([{"image_id": image_id}], [{"scores": scores}])
    assert "\n" not in str(info.value)


def test_the_same_image_twice_in_a_batch():
    with pytest.raises(ValueError, match=r"image_id 0 .* was evaluated twice"):
        ClassificationEvaluator(TEST).process(INPUTS[:1] * 2, make_outputs()[:2])


def test_two_records_of_one_image_id():
    records = [{"file_name": "a.jpg", "image_id": 4, "label": 0}] * 2
    DatasetCatalog.register("evaluator_labels_doubled", lambda: records)
    MetadataCatalog.get("evaluator_labels_doubled").set(thing_classes=NAMES)
    try:
        with pytest.raises(ValueError, match="two records have the image_id 4"):
            ClassificationEvaluator("evaluator_labels_doubled")
    finally:
        unregister("evaluator_labels_doubled")


def test_nothing_was_evaluated():
    with pytest.raises(ValueError, match="no image was evaluated"):
        ClassificationEvaluator(TEST).evaluate()
