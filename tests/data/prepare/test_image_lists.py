# SPDX-License-Identifier: Apache-2.0
"""longtail prepare imagenet_lt, places_lt, inaturalist2018, on benchmarks of 3 classes."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets import imagenet_lt, inaturalist, places_lt
from longtail.data.prepare import prepare_dataset
from tests.data.image_lists import make_images, write_list
from tests.data.sources import files_under, run_tool

CLASSES = ("ant", "bee", "cat")
# Of a class``: 3 images that no list has, 2 for training, 1 for validation.
TRAIN = [(f"train/{name}/{i}.JPEG", k) for k, name in enumerate(CLASSES) for i in (3, 4)]
VAL = [(f"train/{name}/5.JPEG", k) for k, name in enumerate(CLASSES)]
TEST = [(f"val/{i}.JPEG", i) for i in range(3)]
NATURALIST_IDS = (30, 5, 12)


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    for module in (imagenet_lt, inaturalist, places_lt):
        monkeypatch.setattr(module, "NUM_CLASSES", len(CLASSES))


def make_lists(root, images, lists):
    every = [f"train/{name}/{i}.JPEG" for name in CLASSES for i in range(6)]
    make_images(root / images, every + [file for file, _ in TEST])
    make_images(root / images, ["train/ant/readme.txt"])
    for split, pairs in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        write_list(root / lists / f"{lists}_{split}.txt", pairs)


def make_imagenet(root):
    make_lists(root, "imagenet", "ImageNet_LT")


def make_places(root):
    make_lists(root, "places365_standard", "Places_LT")


def naturalist_document(pairs):
    """Three categories with the ids 30, 5, 12: the class indices 2, 0, 1."""
    return {
        "images": [{"id": 100 + i, "file_name": file} for i, (file, _) in enumerate(pairs)],
        "annotations": [
            {"id": i, "image_id": 100 + i, "category_id": NATURALIST_IDS[k]}
            for i, (_, k) in enumerate(pairs)
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(NATURALIST_IDS, CLASSES, strict=True)
        ],
    }


def make_inaturalist(root):
    base = root / "inaturalist2018"
    for split, pairs in (("train", TRAIN), ("val", VAL)):
        pairs = [(f"train_val2018/{file}", label) for file, label in pairs]
        make_images(base, [file for file, _ in pairs])
        (base / f"{split}2018.json").write_text(json.dumps(naturalist_document(pairs)))


MAKE = {
    "imagenet_lt": make_imagenet,
    "places_lt": make_places,
    "inaturalist2018": make_inaturalist,
}


@pytest.mark.parametrize("name", MAKE)
def test_everything_is_missing_at_first(root, capsys, name):
    assert run_tool(name) == 1
    problems = [line for line in capsys.readouterr().err.splitlines() if "problem: " in line]
    folders, lists = {
        "imagenet_lt": (["imagenet/train", "imagenet/val"], "ImageNet_LT/ImageNet_LT_{}.txt"),
        "places_lt": (
            ["places365_standard/train", "places365_standard/val"],
            "Places_LT/Places_LT_{}.txt",
        ),
        "inaturalist2018": (["inaturalist2018/train_val2018"], "inaturalist2018/{}2018.json"),
    }[name]
    splits = ("train", "val") if name == "inaturalist2018" else ("train", "val", "test")
    expected = [root / folder for folder in folders] + [root / lists.format(s) for s in splits]
    assert len(problems) == len(expected)
    for line, path in zip(problems, expected, strict=True):
        assert line.startswith(f"problem: {path}: missing; ") and line.endswith(" there")


@pytest.mark.parametrize("name", MAKE)
def test_what_is_whole_is_left_as_it_is_but_small(root, name):
    MAKE[name](root)
    report = prepare_dataset(name, str(root))
    assert report.problems == []
    after = set(files_under(root))
    sizes = {
        "imagenet_lt": (115846, 20000, 50000),
        "places_lt": (62500, 7300, 36500),
        "inaturalist2018": (437513, 24426),
    }[name]
    found = zip(report.warnings, (6, 3, 3), sizes, strict=False)
    for warning, number, published in found:
        assert warning.endswith(f": {number} images, the published list has {published}")
    assert len(report.warnings) == len(sizes)
    again = prepare_dataset(name, str(root))
    assert (again.written, again.skipped) == (0, report.written + report.skipped)
    assert set(files_under(root)) == after
    records = DatasetCatalog.get(f"{name}_val")
    expected = [2, 0, 1] if name == "inaturalist2018" else [0, 1, 2]
    assert [record["label"] for record in records] == expected
    classes = ["bee", "cat", "ant"] if name == "inaturalist2018" else list(CLASSES)
    assert MetadataCatalog.get(f"{name}_val").thing_classes == classes


def test_the_full_list_has_all_training_images_but_those_for_validation(root):
    make_imagenet(root)
    assert prepare_dataset("imagenet_lt", str(root)).written == 1
    records = DatasetCatalog.get("imagenet_full_train")
    expected = {
        (f"{root}/imagenet/train/{name}/{i}.JPEG", k)
        for k, name in enumerate(CLASSES)
        for i in range(5)
    }
    assert {(record["file_name"], record["label"]) for record in records} == expected
    assert len(records) == len(expected)
    assert MetadataCatalog.get("imagenet_full_train").thing_classes == list(CLASSES)
    make_images(root, ["imagenet/train/bee/new.JPEG"])
    assert prepare_dataset("imagenet_lt", str(root)).written == 1
    assert len(DatasetCatalog.get("imagenet_full_train")) == len(expected) + 1


def test_splits_leave_the_others_out(root):
    make_imagenet(root)
    (root / "ImageNet_LT" / "ImageNet_LT_test.txt").unlink()
    assert run_tool("imagenet_lt", "--splits", "train", "val") == 0
    assert run_tool("imagenet_lt") == 1
    assert run_tool("imagenet_lt", "--splits", "x") == (
        "error: imagenet_lt has no split 'x', only train, val, test"
    )
    assert run_tool("imagenet_lt", "--source", "x").startswith("error: imagenet_lt has no source")
    assert run_tool("places_lt", "--seed", "1").startswith("error: places_lt has nothing to draw")


def test_lists_are_checked_without_images_too(root):
    make_places(root)
    (root / "places365_standard").rename(root / "elsewhere")
    lists = root / "Places_LT"
    write_list(lists / "Places_LT_val.txt", [("train/ant/5.JPEG", 3)])
    report = prepare_dataset("places_lt", str(root), splits=["train", "val"])
    folder, val = report.problems
    assert folder.startswith(f"{root}/places365_standard/train: missing; unpack places365standard")
    assert val.endswith("entry 1, train/ant/5.JPEG, has the label 3, expected 0 to 2")
    assert report.skipped == 1


def _shared(root):
    write_list(root / "ImageNet_LT" / "ImageNet_LT_val.txt", [*VAL, TRAIN[0]])


def _lost(root):
    (root / "imagenet" / "val" / "2.JPEG").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_shared, "train and val share 1 images, such as {root}/imagenet/train/ant/3.JPEG: take"),
        (_lost, "imagenet_lt_test: 1 of 3 images are not in {root}/imagenet (val/2.JPEG); "),
    ],
)
def test_damage_is_one_problem_in_one_line(root, damage, message):
    make_imagenet(root)
    damage(root)
    report = prepare_dataset("imagenet_lt", str(root))
    (problem,) = report.problems
    assert message.format(root=root) in problem and "\n" not in problem
    assert not (root / "ImageNet_LT" / "ImageNet_full_train.txt").exists()


def test_a_class_without_training_images_is_a_problem_of_the_training_list(root):
    make_imagenet(root)
    write_list(root / "ImageNet_LT" / "ImageNet_LT_train.txt", TRAIN[:4])
    problems = prepare_dataset("imagenet_lt", str(root), splits=["train"]).problems
    assert len(problems) == 1
    assert "1 of 3 classes have no image (labels 2): " in problems[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "has no 'categories': not iNaturalist's"),
        (lambda d: d["images"][0].pop("file_name"), "has no 'file_name'"),
        (lambda d: d["annotations"].pop(), "1 images have no category, such as 105"),
        (lambda d: d["images"].pop(), "of the unknown image 105 or category 12"),
        (lambda d: d["categories"].pop(), "of the unknown image 104 or category 12"),
        (lambda d: d["annotations"].append(d["annotations"][0]), "entry 7, .* is entry 1 again"),
        (lambda d: d.update(images=3), "lists of objects"),
    ],
)
def test_a_bad_json_is_one_line(root, change, message):
    make_inaturalist(root)
    path = root / "inaturalist2018" / "train2018.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"^inaturalist2018_train: {path}: .*{message}") as raised:
        inaturalist.register_inaturalist(str(root))
        DatasetCatalog.get("inaturalist2018_train")
    assert "\n" not in str(raised.value)


def test_a_json_that_is_cut_short_is_one_line(root):
    make_inaturalist(root)
    path = root / "inaturalist2018" / "val2018.json"
    path.write_bytes(path.read_bytes()[:-50])
    (problem,) = prepare_dataset("inaturalist2018", str(root)).problems
    assert problem.startswith(f"inaturalist2018_val: {path}: ") and "\n" not in problem
