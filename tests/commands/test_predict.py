# SPDX-License-Identifier: Apache-2.0
"""longtail predict on the folders of small runs, without data."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import longtail
from longtail.commands import predict
from longtail.data.formats.sources import find_sources
from longtail.engine.inference.predictor import Predictor
from tests.messages import assert_names, raises_naming
from tests.trained_runs import NAMES, make_run, write_pictures

SIZES = {"a.png": (32, 48), "sub/b.jpg": (48, 40), "sub/c.png": (32, 48)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(name, folder / name) for name in ("rr", "masks", "images")}


@pytest.fixture
def photos(tmp_path):
    write_pictures(tmp_path / "photos", SIZES)
    (tmp_path / "photos" / ".hidden.png").write_text("", encoding="utf-8")
    (tmp_path / "photos" / "notes.txt").write_text("", encoding="utf-8")
    return tmp_path / "photos"


def run(*arguments):
    predict.main([str(argument) for argument in arguments])


def fail(*arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_segmentation(runs, photos, tmp_path):
    out = tmp_path / "out"
    run(runs["rr"], photos, "--output", out, "--overlays", "--scores")
    model = longtail.Predictor(runs["rr"])
    for name in SIZES:
        stem, expected = name[:-4], model(photos / name)
        image = Image.open(out / "labels" / f"{stem}.png")
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), expected.labels)
        colors = np.asarray(model.colors)[expected.labels]
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colors)
        scores = np.load(out / "scores" / f"{stem}.npy")
        np.testing.assert_allclose(scores, expected.scores, atol=1e-3)
        overlay = Image.open(out / "overlays" / f"{stem}.png")
        assert overlay.width >= 2 * image.width
    record = json.loads((out / "predictions.json").read_text())
    assert record["class_names"] == NAMES and record["task"] == "sem_seg"
    assert sorted(p.name for p in out.iterdir()) == [
        *("labels", "overlays", "predictions.json", "scores")
    ]


def test_detection(runs, photos, tmp_path):
    out = tmp_path / "out"
    run(runs["masks"], photos, "--output", out, "--overlays", "--min-score", "0.1")
    coco = COCO(str(out / "detections.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == NAMES
    assert [image["file_name"] for image in coco.dataset["images"]] == list(SIZES)
    model = longtail.Predictor(runs["masks"])
    for number, name in enumerate(SIZES, start=1):
        expected = model(photos / name).instances
        found = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        assert len(found) == len(expected) > 3
        corners = expected.pred_boxes.tensor.numpy()
        for entry, box, score, k, mask in zip(
            *(found, corners, expected.scores, expected.pred_classes, expected.pred_masks),
            strict=True,
        ):
            x, y, w, h = entry["bbox"]
            # In pixels; float32 sums of a batch round otherwise.
            np.testing.assert_allclose([x, y, x + w, y + h], box, rtol=1e-4, atol=1e-3)
            assert entry["score"] == pytest.approx(float(score), rel=1e-4)
            assert entry["category_id"] == int(k) + 1
            assert np.array_equal(coco.annToMask(entry), mask.numpy())
            assert entry["area"] == mask.sum()
    assert len(list(out.rglob("overlays/**/*.png"))) == 3
    assert_names(fail(runs["masks"], photos, "--output", out, "--scores"), "--scores")


def test_classification(runs, photos, tmp_path):
    out = tmp_path / "out"
    run(runs["images"], photos, "--output", out, "--top", "2", "--scores", "--overlays")
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == list(SIZES)
    assert list(rows[0])[1:] == ["class_1", "probability_1", "class_2", "probability_2"]
    model = longtail.Predictor(runs["images"])
    for row, name in zip(rows, SIZES, strict=True):
        expected = model(photos / name)
        for place, (label, probability) in enumerate(expected.top(2), start=1):
            assert row[f"class_{place}"] == label
            assert float(row[f"probability_{place}"]) == pytest.approx(probability, rel=1e-4)
        scores = np.load(out / "scores" / f"{name[:-4]}.npy")
        np.testing.assert_allclose(scores, expected.probabilities, rtol=1e-4)


def test_what_is_written_is_not_predicted_again(runs, photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    run(runs["images"], photos / "a.png", "--output", out)
    before = (out / "images" / "a.json").stat().st_mtime_ns
    seen = []
    outputs = Predictor.outputs

    def watched(self, pixels, names, **options):
        seen.extend(names)
        return outputs(self, pixels, names, **options)

    monkeypatch.setattr(Predictor, "outputs", watched)
    run(runs["images"], photos, "--output", out)
    assert seen == ["sub/b.jpg", "sub/c.png"] and "1 of 3 images are done" in capsys.readouterr()[0]
    assert (out / "images" / "a.json").stat().st_mtime_ns == before
    assert len((out / "predictions.csv").read_text().splitlines()) == 4
    run(runs["images"], photos, "--output", out, "--scores")
    assert len(seen) == 5 and len(list(out.rglob("scores/**/*.npy"))) == 3
    run(runs["images"], photos, "--output", out, "--overwrite")
    assert len(seen) == 8
    # Another model's predictions are not mixed with these.
    message = fail(
        *(runs["images"], photos, "--output", out),
        *("--weights", runs["images"] / "model_0000002.pth"),
    )
    assert_names(message, "weights", "--overwrite")
    assert_names(fail(runs["images"], photos, "--output", out, "--top", "1"), "top", "--overwrite")


def test_several_processes(runs, photos, tmp_path):
    out = tmp_path / "out"
    run(runs["rr"], photos, "--output", out, "--processes", "2", "--batch-size", "2")
    expected = longtail.Predictor(runs["rr"])([photos / name for name in SIZES], batch_size=1)
    for name, one in zip(SIZES, expected, strict=True):
        labels = np.asarray(Image.open(out / "labels" / f"{name[:-4]}.png"))
        np.testing.assert_array_equal(labels, one.labels)


def test_videos(runs, tmp_path):
    frames = [np.full((32, 48, 3), value, np.uint8) for value in (0, 120, 240)]
    for value, frame in enumerate(frames):
        frame[:, : 16 * value] = (250, 20, 20)
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (48, 32)
    )
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    out = tmp_path / "out"
    run(runs["images"], tmp_path / "clip.avi", "--output", out, "--scores", "--batch-size", "2")
    lines = (out / "predictions.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == [f"clip.avi/00000{n}" for n in "012"]
    model = longtail.Predictor(runs["images"])
    for number, frame in enumerate(frames):
        expected = model(frame, channels="RGB").probabilities
        found = np.load(out / "scores" / "clip" / f"00000{number}.npy")
        # JPEG changes colours a little; another frame, or BGR, changes more.
        assert np.abs(found - expected).max() < 0.02
    assert np.abs(found - model(frames[0], channels="RGB").probabilities).max() > 0.05
    # Continued in the middle.
    (out / "images" / "clip" / "000001.json").unlink()
    (out / "scores" / "clip" / "000001.npy").rename(tmp_path / "before.npy")
    run(runs["images"], tmp_path / "clip.avi", "--output", out, "--scores")
    again = np.load(out / "scores" / "clip" / "000001.npy")
    np.testing.assert_allclose(again, np.load(tmp_path / "before.npy"), atol=1e-5)
    assert len((out / "predictions.csv").read_text().splitlines()) == 4


def test_sources(photos, tmp_path, monkeypatch):
    def names(*inputs):
        return [source.name for source in find_sources(inputs)]

    assert names(photos) == names(photos / "**" / "*.*") == ["a", "sub/b", "sub/c"]
    assert names(photos / "sub" / "c.png", photos / "a.png") == ["c", "a"]
    assert names(photos / "s*" / "*.jpg") == ["sub/b"]
    assert names(photos / "a.png", photos / "a.png") == ["a"]
    monkeypatch.chdir(photos)
    assert names(".", "a.png") == ["a", "sub/b", "sub/c"]
    with raises_naming(FileNotFoundError, "absent"):
        names("absent")
    with raises_naming(FileNotFoundError, "*.tif"):
        names("*.tif")
    with raises_naming(ValueError, "notes.txt", ".png"):
        names("notes.txt")
    (photos / "a.jpg").write_bytes(b"")
    with raises_naming(ValueError, "a.jpg", "a.png"):
        names(".")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with raises_naming(ValueError, str(tmp_path / "bad.mp4"), "video"):
        names(tmp_path / "bad.mp4")


def test_bad_input(runs, photos, tmp_path, capsys):
    out = tmp_path / "out"
    (photos / "sub" / "a_damaged.png").write_bytes((photos / "a.png").read_bytes()[:70])
    with pytest.raises(SystemExit) as caught:
        run(runs["images"], photos, "--output", out)
    assert caught.value.code == 1
    printed = capsys.readouterr().out.splitlines()
    assert_names(printed[-1], "not read", str(photos / "sub" / "a_damaged.png"))
    assert len((out / "predictions.csv").read_text().splitlines()) == 4
    assert_names(fail(tmp_path / "none", photos, "--output", out), str(tmp_path / "none"))
    assert_names(fail(photos, photos, "--output", out), str(photos), "config.yaml")
    assert_names(fail(runs["rr"], photos, "--output", photos / "a.png"), "--output")
    given = [runs["rr"], photos, "--output", tmp_path / "new"]
    assert_names(fail(*given, "--batch-size", "0"), "--batch-size", "0")
    assert_names(fail(*given, "--min-score", "2"), "--min-score", "2.0")
    assert_names(fail(*given, "--device", "cuda:77"), "cuda:77")
    saved = torch.load(runs["rr"] / "model_final.pth", weights_only=True)
    torch.save({"model": saved["model"]}, tmp_path / "unnamed.pth")
    message = fail(*given, "--weights", tmp_path / "unnamed.pth")
    assert_names(message, str(tmp_path / "unnamed.pth"), "--dataset")
    assert not (tmp_path / "new").exists()
