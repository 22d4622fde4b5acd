# SPDX-License-Identifier: Apache-2.0
"""longtail prepare ccp: label maps, lists and annotations of a tiny copy, and what may be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from pycocotools import mask as mask_util

from longtail.data.datasets.ccp import CLASSES, TRAIN_IMAGES
from longtail.data.prepare import prepare_dataset
from tests.data.sources import files_under, read_label, run_tool, save_image, save_label

# Three wide, two high: null, accessories, wedges; shorts, clogs, null.
LABELS = [[0, 1, 58], [40, 12, 0]]
NAMES = {"train": "0006", "val": "0001", "test": "0007"}
ACCESSORIES, SHORTS, WEDGES = 1, 36, 52  # ids of categories
FREQUENCIES = {name: "r" if count <= 10 else "c" if count <= 100 else "f"
               for name, count in zip(CLASSES, TRAIN_IMAGES, strict=True)}  # fmt: skip
OBJECTS = [
    name
    for name in CLASSES
    if name not in ("null", "skin", "hair", "clogs", "intimate", "panties", "swimwear")
]


def instances(name, height=2):
    mask = np.asfortranarray([[0, 1, 0], *[[0, 0, 0]] * (height - 1)], dtype=np.uint8)
    rle = mask_util.encode(mask)
    annotation = {
        "id": 1,
        "image_id": int(name),
        "category_id": ACCESSORIES,
        "bbox": [1, 0, 1, 1],
        "area": 1,
        "segmentation": {"size": [height, 3], "counts": rle["counts"].decode()},
    }
    absent = [number for number in range(1, 53) if number not in (ACCESSORIES, SHORTS, WEDGES)]
    image = {
        "id": int(name),
        "file_name": f"{name}.jpg",
        "height": height,
        "width": 3,
        "neg_category_ids": absent,
        "not_exhaustive_category_ids": [],
    }
    categories = [
        {"id": number, "name": object_name, "frequency": FREQUENCIES[object_name]}
        for number, object_name in enumerate(OBJECTS, start=1)
    ]
    return {"images": [image], "annotations": [annotation], "categories": categories}


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    for split, name in NAMES.items():
        save_image(source / "images" / f"{name}.jpg")
        save_label(source / "labels" / f"{name}.png", LABELS)
        (source / f"{split}.txt").write_text(f"{name}\n")
        (source / f"instances_{split}.json").write_text(json.dumps(instances(name)))
    rows = [
        f"{index}\t{name}\t9\t{count}\t1\t1"
        for index, (name, count) in enumerate(zip(CLASSES, TRAIN_IMAGES, strict=True))
    ]
    header = "index\tname\ttrain_pixels\ttrain_images\tval_images\ttest_images"
    (source / "classes.tsv").write_text("\n".join([header, *rows]) + "\n")
    return source


def test_labels_stay_and_splits_follow_the_lists(root, source, capsys):
    assert run_tool("ccp", "--source", source) == 0
    # Three label maps and three files of annotations.
    assert "ccp: 6 written, 0 skipped (up to date), 0 problems" in capsys.readouterr().out
    for split, name in NAMES.items():
        (record,) = DatasetCatalog.get(f"ccp_sem_seg_{split}")
        assert read_label(record["sem_seg_file_name"]) == LABELS
        image = Path(record["file_name"])
        assert image == root / "ccp" / "images" / f"{name}.jpg"
        assert image.read_bytes() == (source / "images" / f"{name}.jpg").read_bytes()


def test_annotations_become_records(root, source):
    assert run_tool("ccp", "--source", source) == 0
    for split, name in NAMES.items():
        (record,) = DatasetCatalog.get(f"ccp_{split}")
        assert Path(record["file_name"]) == root / "ccp" / "images" / f"{name}.jpg"
        assert record["image_id"] == int(name)
        assert len(record["neg_category_ids"]) == 49
        (instance,) = record["annotations"]
        assert instance["category_id"] == 0 and instance["bbox"] == [1, 0, 1, 1]
        assert mask_util.decode(instance["segmentation"]).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_a_second_run_writes_nothing_and_a_third_what_is_lost(root, source):
    assert prepare_dataset("ccp", str(root), source=str(source)).written == 6
    before = {path: file.stat().st_mtime_ns for path, file in files_under(root).items()}
    report = prepare_dataset("ccp", str(root), source=str(source))
    assert (report.written, report.skipped, report.problems) == (0, 6, [])
    assert before == {path: file.stat().st_mtime_ns for path, file in files_under(root).items()}
    (root / "ccp" / "instances_val.json").unlink()
    (root / "ccp" / "labels_detectron2" / "0007.png").unlink()
    report = prepare_dataset("ccp", str(root), source=str(source))
    assert (report.written, report.skipped) == (2, 4)


def test_in_place_nothing_is_copied(root, source):
    root.mkdir()
    source.rename(root / "ccp")
    assert run_tool("ccp") == 0
    assert len(DatasetCatalog.get("ccp_train")) == len(DatasetCatalog.get("ccp_sem_seg_train")) == 1
    assert len(list((root / "ccp" / "images").iterdir())) == 3


def test_a_split_alone(root, source):
    (source / "instances_test.json").unlink()
    assert run_tool("ccp", "--source", source, "--splits", "train", "val") == 0
    assert sorted(path.name for path in (root / "ccp").glob("*.*")) == [
        *("instances_train.json", "instances_val.json", "train.txt", "val.txt")
    ]


def _label_beyond(source):
    save_label(source / "labels" / "0001.png", [[0, 59, 58], [40, 12, 0]])


def _label_of_another_size(source):
    save_label(source / "labels" / "0001.png", [[0, 1, 58]])


def _no_image(source):
    (source / "images" / "0001.jpg").unlink()


def _annotations_of_another_size(source):
    (source / "instances_val.json").write_text(json.dumps(instances("0001", height=3)))


def _no_annotations(source):
    (source / "instances_val.json").unlink()


def _cut_short(source):
    path = source / "instances_val.json"
    path.write_bytes(path.read_bytes()[:-50])


def _annotations_of_another_split(source):
    (source / "instances_val.json").write_bytes((source / "instances_test.json").read_bytes())


def _change(section, **values):
    def damage(source):
        document = instances("0001")
        document[section][0].update(values)
        (source / "instances_val.json").write_text(json.dumps(document))

    return damage


def _without(section, key):
    def damage(source):
        document = instances("0001")
        del document[section][0][key]
        (source / "instances_val.json").write_text(json.dumps(document))

    return damage


def _fewer_categories(source):
    document = instances("0001")
    document["categories"].pop()
    (source / "instances_val.json").write_text(json.dumps(document))


def _replace(name, old, new):
    def damage(source):
        text = (source / name).read_text()
        assert old in text
        (source / name).write_text(text.replace(old, new))

    return damage


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (_no_annotations, ("instances_val.json", "missing")),
        (_cut_short, ("instances_val.json", "cut short")),
        (_annotations_of_another_split, ("instances_val.json", "val.txt", "0001")),
        (_annotations_of_another_size, ("images/0001.jpg", "3x2", "3x3")),
        (_change("images", file_name="0001.png"), ("instances_val.json", "images/0001.png")),
        (_change("annotations", category_id=53), ("instances_val.json", "category_id 53")),
        (_change("categories", name="shoe"), ("category 1", "'shoe'", "'accessories'")),
        (_fewer_categories, ("instances_val.json", "category 52", "None", "'wedges'")),
        (_without("images", "neg_category_ids"), ("instances_val.json", "neg_category_ids")),
        (_without("annotations", "segmentation"), ("instances_val.json", "segmentation")),
        (_replace("classes.tsv", "3\tbelt", "3\tboots"), ("classes.tsv", "boots", "belt")),
        (_replace("classes.tsv", "704", "700"), ("classes.tsv", "700", "704")),
        (_replace("classes.tsv", "58\twedges\t9\t1\t1\t1\n", ""), ("classes.tsv", "58", "59")),
        (lambda source: (source / "classes.tsv").unlink(), ("classes.tsv", "missing")),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(root, source, damage, facts):
    damage(source)
    (problem,) = prepare_dataset("ccp", str(root), source=str(source)).problems
    assert "\n" not in problem
    for fact in facts:
        assert fact in problem


def test_an_image_may_be_in_one_split_only(root, source):
    for name in ("0001", "0006"):
        with open(source / "test.txt", "a") as file:
            file.write(f"{name}\n")
    problems = prepare_dataset("ccp", str(root), source=str(source)).problems
    assert f"{source}/test.txt: 2 names are in {source}/val.txt" in problems[0]
    assert "(0001)" in problems[0]
    assert "instances_test.json: not of the images of" in problems[1] and len(problems) == 2


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (_label_beyond, ("labels/0001.png", "(59)", "0 to 58")),
        (_label_of_another_size, ("labels/0001.png", "3x1", "3x2")),
        (_no_image, ("images/0001.jpg", "missing image")),
    ],
)
def test_a_bad_pair_keeps_the_annotations_back(root, source, damage, facts):
    damage(source)
    problems = prepare_dataset("ccp", str(root), source=str(source)).problems
    assert all(fact in problems[0] for fact in facts)
    assert "instances_val.json" in problems[1] and len(problems) == 2
    assert not (root / "ccp" / "instances_val.json").exists()
    assert (root / "ccp" / "instances_train.json").exists()
