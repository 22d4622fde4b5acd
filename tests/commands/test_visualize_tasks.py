# SPDX-License-Identifier: Apache-2.0
"""longtail visualize for every task: models, the predictions that they write, and differences."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from longtail.commands import visualize
from longtail.visualization.instances import draw_objects
from longtail.visualization.painting import fade, paint
from longtail.visualization.predictions import Objects
from tests.commands.pictured import TASKS, Pictured, pictured, read_pictures
from tests.messages import assert_names
from tests.visualization.pictures import positions


def given(task: str):
    @pytest.fixture(scope="module")
    def fixture(tmp_path_factory):
        with pictured(task, tmp_path_factory.mktemp(task)) as made:
            yield made

    return fixture


sem_seg, objects, images = map(given, TASKS)


@pytest.fixture(params=TASKS)
def each(request) -> Pictured:
    return request.getfixturevalue(request.param)


def run(output: Path, *arguments: str | Path) -> dict[str, np.ndarray]:
    visualize.main(["--output", str(output), *map(str, arguments)])
    return read_pictures(output)


def fail(output: Path, *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as caught:
        run(output, *arguments)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message and "unexpected" not in message
    assert not output.is_dir() or not list(output.iterdir())
    return message


def records(made: Pictured) -> list[dict]:
    return DatasetCatalog.get(made.dataset)


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_saved_predictions_give_the_picture_of_the_model_that_wrote_them(each, tmp_path):
    # The random detector is sure of nothing.
    options = ["--min-score", "0.2", "--num-images", "3"]
    of_model = run(tmp_path / "model", *each.model(), *options)
    saved = run(tmp_path / "saved", *each.predictions(), *options)
    assert len(saved) == 3 and saved.keys() == of_model.keys()
    for name, picture in saved.items():
        np.testing.assert_array_equal(picture, of_model[name])


def test_the_detector_has_objects_to_draw(objects, tmp_path):
    """So that the comparison above is one."""
    found = [entry for entry in json.loads(objects.saved.read_text()) if entry["score"] >= 0.2]
    assert found and all("segmentation" in entry for entry in found)


def test_min_score_leaves_detections_out(objects, tmp_path):
    none = run(tmp_path / "none", *objects.predictions(), "--min-score", "1")
    some = run(tmp_path / "some", *objects.predictions(), "--min-score", "0.2")
    assert any((none[name].shape != some[name].shape) for name in none) or any(
        (none[name] != some[name]).any() for name in none
    )


def test_own_images_of_every_task(each, tmp_path):
    own = tmp_path / "mine.png"
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(own)
    pictures = run(tmp_path / "out", *each.model(), "--dataset", each.dataset, "--images", own)
    assert list(pictures) == ["mine"]


def test_own_images_have_the_classes_of_the_weights(each, tmp_path):
    """Not those of the data set that the config happens to name."""
    own = tmp_path / "mine.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(own)
    message = fail(tmp_path / "out", *each.model(), "--images", own)
    assert "weights.pth do not carry the names of their classes" in message
    weights = torch.load(each.weights, weights_only=True)
    pictures = []
    for names in (["red", "green", "blue"], ["cat", "dog", "a long-eared bat"]):
        torch.save({**weights, "class_names": names}, tmp_path / "named.pth")
        model = ["--model", "x", each.config, tmp_path / "named.pth", "--min-score", "0"]
        pictures.append(run(tmp_path / "out", *model, "--images", own)["mine"])
    assert not np.array_equal(*pictures)
    message = fail(tmp_path / "none", *model, "--dataset", each.dataset, "--images", own)
    assert "different classes: class 0 is 'cat'" in message


def test_a_model_and_what_it_wrote_do_not_differ(each, tmp_path):
    options = [*each.model("one"), *each.predictions("two"), "--min-score", "0.2"]
    message = fail(tmp_path / "out", *options, "--most-different", "3")
    assert "one, two predict the same" in message and each.dataset in message


def label_maps(made: Pictured, folder: Path, pixels: dict[str, int]) -> Path:
    """Label maps of class 0, of which so many pixels of an image from the left are class 1."""
    folder.mkdir()
    for record in records(made):
        stem = Path(record["file_name"]).stem
        labels = np.zeros((32, 32), np.uint8)
        labels[:, : pixels.get(stem, 0)] = 1
        Image.fromarray(labels).save(folder / f"{stem}.png")
    return folder


def test_label_maps_that_differ_most(sem_seg, tmp_path, capsys):
    folders = [
        label_maps(sem_seg, tmp_path / "a", {"0": 4, "1": 2, "3": 8}),
        label_maps(sem_seg, tmp_path / "b", {"0": 4, "1": 9, "3": 5}),
    ]
    columns = [part for f in folders for part in ("--predictions", f.name, f)]
    options = [*columns, "--dataset", sem_seg.dataset, "--most-different"]
    pictures = run(tmp_path / "out", *options, 9)
    # Seven and three columns of 31, for the last one is ignored in the ground truth.
    assert list(pictures) == ["1", "3"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 of 4 images differ")
    assert [line.split()[0] for line in lines[1:3]] == [f"{7 / 31:.4g}", f"{3 / 31:.4g}"]
    assert list(run(tmp_path / "one", *options, 1)) == ["1"]
    record = records(sem_seg)[1]
    image = np.asarray(Image.open(record["file_name"]))
    region = np.zeros((32, 32), bool)
    region[:, 2:9] = True
    colors = [(128, 0, 0), (0, 128, 0), (128, 128, 0)]
    for folder in folders:
        painted = paint(image, np.asarray(Image.open(folder / "1.png")), colors)
        assert len(positions(pictures["1"], fade(painted, region))) == 1


def test_label_maps_of_other_sizes_are_named(sem_seg, tmp_path):
    columns = []
    for name in "ab":
        columns += ["--predictions", name, label_maps(sem_seg, tmp_path / name, {})]
    first = Path(records(sem_seg)[0]["file_name"])
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "b" / first.name)
    options = [*columns, "--dataset", sem_seg.dataset, "--most-different", 1]
    assert_names(fail(tmp_path / "out", *options), str(first), "9x8", "32x32")


def detection(image: int, category: int, box: list, score: float = 0.9) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_detections_that_differ_most(objects, tmp_path, capsys):
    box, far = [5, 5, 20, 20], [40, 40, 15, 15]
    a = [detection(1, 1, box), detection(2, 1, box), detection(2, 2, far), detection(3, 1, box)]
    # Image 2: another class, and one is missing; 3: the score is too low; 4: nothing in a.
    b = [detection(1, 1, box, 0.6), detection(2, 3, box), detection(3, 1, box, 0.3)]
    b += [detection(4, 1, box), detection(4, 1, far)]
    columns = ["--dataset", objects.dataset]
    for name, results in (("a", a), ("b", b)):
        columns += ["--predictions", name, write(tmp_path / f"{name}.json", results)]
    pictures = run(tmp_path / "out", *columns, "--most-different", 9)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 of 4 images differ")
    shown = [(line.split()[0], Path(line.split()[1]).stem) for line in lines[1:4]]
    assert shown == [("3", "1"), ("2", "3"), ("1", "2")]
    record = next(r for r in records(objects) if r["image_id"] == 4)
    image = np.asarray(Image.open(record["file_name"]))
    corners = np.array([[5, 5, 25, 25], [40, 40, 55, 55]], float)
    expected = Objects(np.array([0, 0]), corners, np.array([0.9, 0.9]))
    # Class 0 is pure red.
    part = draw_objects(image, expected, ["red"], [[255, 0, 0]])
    assert len(positions(pictures["3"], part)) == 1


def test_masks_with_counts_that_are_not_compressed(objects, tmp_path):
    # Columns come one after another: the mask is the first 9 columns of 64 pixels, or all others.
    columns = ["--dataset", objects.dataset, "--most-different", 1]
    for name, counts in (("a", [0, 576, 3520]), ("b", [576, 3520])):
        entry = detection(1, 1, [0, 0, 9, 64] if name == "a" else [9, 0, 55, 64])
        entry["segmentation"] = {"size": [64, 64], "counts": counts}
        columns += ["--predictions", name, write(tmp_path / f"{name}.json", [entry])]
    (picture,) = run(tmp_path / "out", *columns).values()
    image = np.asarray(Image.open(records(objects)[0]["file_name"])).astype(float)
    mixed = np.rint(0.5 * image + 0.5 * np.array([255, 0, 0])).astype(np.uint8)
    # Without box and name, and enlarged eight times.
    for columns_, rows in ((slice(2, 7), slice(20, 60)), (slice(12, 60), slice(20, 60))):
        part = mixed[rows, columns_].repeat(8, axis=0).repeat(8, axis=1)
        assert positions(picture, part)


def test_classes_that_differ_most(images, tmp_path, capsys):
    names = ["red", "green", "blue"]
    columns = ["--dataset", images.dataset]
    # Of image 0 .. 3: the best class and its score.
    for name, best in {
        "a": [(0, 0.9), (0, 0.5), (1, 0.9), (2, 0.4)],
        "b": [(0, 0.4), (1, 0.9), (2, 0.9), (0, 0.4)],
    }.items():
        entries = [
            {"file_name": record["file_name"], "image_id": i, "classes": [k], "scores": [s]}
            for i, (record, (k, s)) in enumerate(
                zip(records(images), best + [(0, 0.8)] * 10, strict=True)
            )
        ]
        content = {"dataset": images.dataset, "class_names": names, "images": entries}
        columns += ["--predictions", name, write(tmp_path / f"{name}.json", content)]
    run(tmp_path / "out", *columns, "--most-different", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 of 14 images differ")
    shown = [(line.split()[0], Path(line.split()[1]).stem) for line in lines[1:3]]
    assert shown == [("0.9", "2"), ("0.7", "1")]


def changed(made: Pictured, tmp_path: Path, change) -> list:
    """The options for saved predictions after a change of their content."""
    content = json.loads(made.saved.read_text())
    path = write(tmp_path / "changed.json", change(content) or content)
    return ["--dataset", made.dataset, "--predictions", "mine", path]


def test_results_of_another_data_set(objects, tmp_path):
    out = tmp_path / "out"
    for key, value in (("image_id", 77), ("category_id", 9)):
        options = changed(objects, tmp_path, lambda c, k=key, v=value: c[1].update({k: v}))
        message = fail(out, *options)
        assert_names(message, "mine", "changed.json", f"{key} {value}", objects.dataset)
    options = changed(objects, tmp_path, lambda c: c[0].update(bbox=[1, 2, 3]))
    assert_names(fail(out, *options), "changed.json", "[1, 2, 3]")
    options = changed(objects, tmp_path, lambda c: c[0].update(score=float("nan")))
    assert_names(fail(out, *options), "changed.json", "nan")
    options = changed(objects, tmp_path, lambda c: c[0].pop("score") and None)
    assert_names(fail(out, *options), "changed.json", "entry 0", "score")
    options = changed(objects, tmp_path, lambda c: c[0]["segmentation"].update(size=[9, 9]))
    assert_names(fail(out, *options, "--min-score", "0"), "changed.json", "[9, 9]", "[64, 64]")


def test_label_maps_of_another_data_set(sem_seg, tmp_path):
    out = tmp_path / "out"
    first = records(sem_seg)[0]["file_name"]
    others = changed(sem_seg, tmp_path, lambda c: [e for e in c if e["file_name"] != first])
    assert_names(fail(out, *others), "mine", "changed.json", first)
    number = changed(sem_seg, tmp_path, lambda c: c[0].update(category_id=3))
    assert_names(fail(out, *number), "changed.json", "class 3", sem_seg.dataset)
    size = changed(sem_seg, tmp_path, lambda c: c[0]["segmentation"].update(size=[9, 9]))
    assert_names(fail(out, *size), "changed.json", "[9, 9]", "[32, 32]")


def test_images_may_have_been_elsewhere(sem_seg, images, tmp_path):
    def move(entries: list) -> None:
        for entry in entries:
            entry["file_name"] = f"/elsewhere/{Path(entry['file_name']).name}"

    for made, find in ((sem_seg, lambda c: c), (images, lambda c: c["images"])):
        expected = run(tmp_path / f"{made.dataset}_a", *made.predictions("mine"))
        options = changed(made, tmp_path, lambda c, find=find: move(find(c)))
        moved = run(tmp_path / f"{made.dataset}_b", *options)
        assert moved.keys() == expected.keys()
        for name, picture in moved.items():
            np.testing.assert_array_equal(picture, expected[name])


def test_rankings_of_another_data_set(images, tmp_path):
    out = tmp_path / "out"
    names = changed(images, tmp_path, lambda c: c.update(class_names=["red", "green", "grey"]))
    assert_names(fail(out, *names), "mine", "changed.json", "'grey'", "'blue'", images.dataset)
    order = changed(images, tmp_path, lambda c: c.update(class_names=["green", "red", "blue"]))
    assert_names(fail(out, *order), "changed.json", "'green'", "another order")
    absent = changed(images, tmp_path, lambda c: c["images"].pop(0) and None)
    assert_names(fail(out, *absent), "changed.json", records(images)[0]["file_name"])
    for wrong in ({"classes": [0, 5, 1]}, {"scores": [1.0]}, {"scores": ["a", 0, 0]}):
        options = changed(images, tmp_path, lambda c, w=wrong: c["images"][0].update(w))
        assert_names(fail(out, *options), "changed.json", str(*wrong.values()))


def test_files_that_are_not_predictions(each, tmp_path):
    out, bad = tmp_path / "out", tmp_path / "bad.json"
    options = ["--dataset", each.dataset, "--predictions", "mine", bad]
    assert_names(fail(out, *options), "mine", str(bad), "does not exist", each.saved.name)
    for content in ("[{", "{}", "[1]", '[{"file_name": 3}]', '"text"'):
        bad.write_text(content, encoding="utf-8")
        assert_names(fail(out, *options), "mine", str(bad), each.saved.name)
    folder = fail(out, "--dataset", each.dataset, "--predictions", "mine", tmp_path)
    assert_names(folder, "mine", str(tmp_path))


def test_predictions_of_another_task(sem_seg, objects, images, tmp_path):
    for made, other in ((sem_seg, objects), (objects, images), (images, sem_seg)):
        options = ["--dataset", made.dataset, "--predictions", "mine", other.saved]
        assert_names(fail(tmp_path / "out", *options), str(other.saved), made.saved.name)
        message = fail(tmp_path / "out", *other.model("theirs"), "--dataset", made.dataset)
        assert_names(message, "theirs", made.dataset, "MODEL.META_ARCHITECTURE")


def test_options_that_make_no_picture(objects, sem_seg, tmp_path):
    out = tmp_path / "out"
    two = [*objects.model("a"), *objects.predictions("b")]
    own = tmp_path / "own.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(own)
    assert "--most-different" in fail(out, *objects.model(), "--most-different", "2")
    assert "--most-different must be" in fail(out, *two, "--most-different", "0")
    assert "--images" in fail(out, *two, "--most-different", "1", "--images", own)
    assert "--images and --predictions" in fail(out, *two, "--images", own)
    assert "--min-score" in fail(out, *two, "--min-score", "1.5")
    with pytest.raises(SystemExit) as caught:
        run(out, *two, "--most-different", "1", "--num-images", "3")
    assert caught.value.code == 2
