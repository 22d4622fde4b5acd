# SPDX-License-Identifier: Apache-2.0
"""longtail calibrate: what is fitted, what uses it, and what is refused."""

import json

import numpy as np
import pytest

from longtail.commands import analyze, calibrate, evaluate_predictions, train
from longtail.evaluation.calibration_file import read_calibration
from longtail.evaluation.judged import judge_saved
from longtail.evaluation.score_maps import METHODS, apply_score_maps, fit_score_maps
from tests.commands.pictured import pictured
from tests.messages import assert_names
from tests.tiny_classification import unregister
from tests.tiny_detection import register_rectangles

VAL = "calibrate_val"


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    with pictured("objects", folder) as made:
        register_rectangles(VAL, folder / "val", 12, seed=5)
        yield made
    unregister(VAL)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with pictured("images", tmp_path_factory.mktemp("images")) as made:
        yield made


def detections(folder, dataset=VAL, size=40):
    """Boxes of every image: near an annotation, or beside all; right ones have higher scores."""
    from longtail.data.statistics.counting import load_records

    generator = np.random.default_rng(0)
    entries, truth = [], []
    for record in load_records(dataset):
        for _ in range(size):
            label = int(generator.integers(3))
            mine = [a["bbox"] for a in record["annotations"] if a["category_id"] == label]
            right = bool(mine) and generator.random() < 0.4
            box = mine[0] if right else [0, 0, 1, 1]
            # The annotation is found once.
            right = right and (record["image_id"], label) not in truth
            if right:
                truth.append((record["image_id"], label))
            elif box != [0, 0, 1, 1]:
                continue
            entry = {"image_id": record["image_id"], "category_id": label + 1, "bbox": box}
            entries.append({**entry, "score": float(generator.beta(3 if right else 1, 3))})
    path = folder / "results.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path, entries


def run(*arguments):
    calibrate.main([str(argument) for argument in arguments])


def fail(command, *arguments):
    with pytest.raises(SystemExit) as caught:
        command([str(argument) for argument in arguments])
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_methods_of_the_parser():
    assert tuple(METHODS) == calibrate.METHODS


def test_detections_are_judged_as_they_were_made(objects, tmp_path):
    path, entries = detections(tmp_path)
    judged = judge_saved(VAL, str(path))
    made = sorted((e["category_id"] - 1, e["score"], e["bbox"] != [0, 0, 1, 1]) for e in entries)
    found = sorted(zip(judged.classes.tolist(), judged.scores, judged.hits.tolist(), strict=True))
    assert found == made and 5 < judged.hits.sum() < len(judged) - 50
    assert judged.class_names == ("red", "green", "blue")


def test_what_the_annotations_do_not_tell_is_left_out(tmp_path):
    """LVIS's rules: not exhaustively annotated, and not checked for."""
    name = register_rectangles("calibrate_federated", tmp_path / "data", 3)
    try:
        path = tmp_path / "data" / "lvis.json"
        content = json.loads(path.read_text())
        first, _, third = content["images"]
        first["not_exhaustive_category_ids"], third["neg_category_ids"] = [1], []
        path.write_text(json.dumps(content))
        truth = next(a["bbox"] for a in content["annotations"] if a["image_id"] == 1)
        found = [
            (1, 1, truth, 0.9),  # right
            (1, 1, [0, 0, 1, 1], 0.8),  # a red one that nobody has annotated, or none
            (1, 2, [0, 0, 1, 1], 0.7),  # wrong: there is no green one
            (3, 2, [0, 0, 1, 1], 0.6),  # nobody has looked for green ones
        ]
        keys = ("image_id", "category_id", "bbox", "score")
        entries = [dict(zip(keys, values, strict=True)) for values in found]
        (tmp_path / "r.json").write_text(json.dumps(entries))
        judged = judge_saved(name, str(tmp_path / "r.json"))
    finally:
        unregister(name)
    assert judged.scores.tolist() == [0.9, 0.7] and judged.hits.tolist() == [True, False]
    assert judged.classes.tolist() == [0, 1] and judged.images.tolist() == [0, 0]


def test_files_and_table(objects, tmp_path, capsys):
    path, entries = detections(tmp_path)
    run("--dataset", VAL, "--predictions", path, "--output", tmp_path / "out")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {
        line[0]: [float(v) for v in line[-3:]] for line in lines if line[:1] and line[0] in METHODS
    }
    assert list(rows) == list(METHODS)
    scores = np.array([e["score"] for e in entries])
    hits = np.array([e["bbox"] != [0, 0, 1, 1] for e in entries])
    before = 100 * np.mean((scores - hits) ** 2)
    (given,) = (line[-1] for line in lines if line[:3] == ["as", "they", "are"])
    assert float(given) == pytest.approx(before, abs=0.005)
    # Scores that are far too high: every method but the shift-free one helps on unseen images.
    assert all(rows[method][2] < before for method in ("platt", "beta", "isotonic"))
    judged = judge_saved(VAL, str(path))
    for method in METHODS:
        found = read_calibration(str(tmp_path / "out" / f"{method}.json"))
        assert (found.method, found.dataset) == (method, VAL)
        expected = fit_score_maps(method, judged.classes, judged.scores, judged.hits, 3)
        assert found.maps == expected


def test_cross_fitting_has_not_seen_the_image(objects, tmp_path):
    """Another truth of an image changes the other half's scores, and none of its own half's."""
    path, _ = detections(tmp_path)
    judged = judge_saved(VAL, str(path))
    before = calibrate.cross_fitted("isotonic", judged)
    mine = judged.images == judged.images[0]
    judged.hits[mine] ^= True
    changed = calibrate.cross_fitted("isotonic", judged) != before
    assert changed.any() and not changed[mine].any()
    assert 4 <= len(np.unique(judged.images[changed])) <= 6


def test_evaluation_of_the_model_is_that_of_its_mapped_file(objects, tmp_path):
    """train --eval-only with MODEL.POST_HOC.FILE, and evaluate-predictions --calibration."""
    path, _ = detections(tmp_path)
    run("--dataset", VAL, "--predictions", path, "--output", tmp_path / "fit", "--methods", "beta")
    file = tmp_path / "fit" / "beta.json"
    method = ["MODEL.POST_HOC.METHOD", "score_calibration", "MODEL.POST_HOC.FILE", str(file)]
    given = ["MODEL.WEIGHTS", str(objects.weights), "OUTPUT_DIR", str(tmp_path / "model")]
    train.main(["--eval-only", "--config-file", str(objects.config), *given, *method])
    saved = ["--dataset", objects.dataset, "--predictions", str(objects.saved)]
    mapped = [*saved, "--calibration", str(file), "--output", str(tmp_path / "file")]
    evaluate_predictions.main(mapped)
    name = "lvis_instances_results.json"
    of_model = tmp_path / "model" / "inference" / objects.dataset / name
    pair = [json.loads(p.read_text()) for p in (of_model, tmp_path / "file" / name, objects.saved)]
    key = lambda e: (e["image_id"], e["category_id"], e["score"])  # noqa: E731
    scores = [[e["score"] for e in sorted(entries, key=key)] for entries in pair]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    before = judge_before = json.loads(objects.saved.read_text())
    maps = read_calibration(str(file)).maps
    expected = apply_score_maps(
        maps, [e["category_id"] - 1 for e in before], [e["score"] for e in judge_before]
    )
    np.testing.assert_allclose(sorted(scores[0]), sorted(expected), atol=1e-6)
    assert np.abs(np.array(scores[0]) - scores[2]).max() > 0.01


def test_the_reported_set_is_refused(objects, tmp_path):
    path, _ = detections(tmp_path)
    run("--dataset", VAL, "--predictions", path, "--output", tmp_path, "--methods", "platt")
    file = tmp_path / "platt.json"
    saved = ("--dataset", VAL, "--predictions", path, "--calibration", file)
    message = fail(evaluate_predictions.main, *saved, "--output", tmp_path / "x")
    assert_names(message, str(file), VAL)
    method = ["MODEL.POST_HOC.METHOD", "score_calibration", "MODEL.POST_HOC.FILE", file]
    sets = ["DATASETS.TEST", f"('{VAL}',)", "MODEL.WEIGHTS", "absent.pth"]
    # Said before the weights are looked for.
    message = fail(train.main, "--eval-only", "--config-file", objects.config, *sets, *method)
    assert_names(message, str(file), VAL)


def test_images(images, tmp_path, capsys):
    """The best class of every image; the report's own accuracy is the share that is right."""
    run("--dataset", images.dataset, "--predictions", images.saved, "--output", tmp_path)
    report = json.loads(images.saved.with_name("classification_evaluation.json").read_text())
    judged = judge_saved(images.dataset, str(images.saved))
    assert 100 * judged.hits.mean() == pytest.approx(report["top1"])
    folder = images.saved.parents[2]
    analyze.main(["calibration", str(folder), "--output", str(tmp_path / "analysis")])
    values = json.loads((tmp_path / "analysis" / "calibration.json").read_text())
    found = values["groups"]["all"]
    assert found["right"] == pytest.approx(report["top1"]) and sum(found["count"]) == len(judged)
    groups = [found for name, found in values["groups"].items() if name != "all"]
    assert len(groups) > 0 and sum(sum(g["count"]) for g in groups) == len(judged)


def test_analysis_of_detections(objects, tmp_path, capsys):
    analyze.main(
        ["calibration", str(objects.saved.parents[2]), "--output", str(tmp_path / "analysis")]
    )
    values = json.loads((tmp_path / "analysis" / "calibration.json").read_text())
    judged = judge_saved(objects.dataset, str(objects.saved))
    found = values["groups"]["all"]
    # From the formula, bin by bin.
    place = np.ceil(judged.scores * 15).clip(1) - 1
    gaps = [abs((judged.hits[place == b] - judged.scores[place == b]).sum()) for b in range(15)]
    assert found["ECE"] == pytest.approx(100 * sum(gaps) / len(judged), abs=1e-9)
    assert found["Brier"] == pytest.approx(100 * np.mean((judged.scores - judged.hits) ** 2))
    # All classes of these images are rare.
    assert values["groups"]["r"]["count"] == found["count"]
    assert (tmp_path / "analysis" / "calibration.png").stat().st_size > 5000
    assert "classwise" in capsys.readouterr().out


def test_bad_input(objects, images, tmp_path):
    path, entries = detections(tmp_path)
    output = ("--output", tmp_path / "x")
    entries[3]["score"] = 3.5
    path.write_text(json.dumps(entries))
    assert_names(fail(calibrate.main, "--dataset", VAL, "--predictions", path, *output), "3.5")
    path.write_text("[]")
    message = fail(calibrate.main, "--dataset", VAL, "--predictions", path, *output)
    assert_names(message, str(path), VAL)
    message = fail(calibrate.main, "--dataset", images.dataset, "--predictions", path, *output)
    assert_names(message, str(path), images.dataset)
    saved = ("--dataset", images.dataset, "--predictions", images.saved)
    content = json.loads(images.saved.read_text())
    content["images"][0]["image_id"] = "nowhere"
    path.write_text(json.dumps(content))
    message = fail(calibrate.main, *saved[:3], path, *output)
    assert_names(message, str(path), "'nowhere'")
