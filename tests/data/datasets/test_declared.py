# SPDX-License-Identifier: Apache-2.0
"""Data sets that a YAML file declares: what is registered, and what is refused before that."""

import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from longtail.data.datasets.declared import register_data_files
from longtail.data.statistics.class_stats import get_class_stats
from tests.messages import raises_naming
from tests.tiny_detection import write_rectangles


@pytest.fixture(autouse=True)
def only_here(monkeypatch, tmp_path):
    """Forget what a test has declared."""
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("longtail.data.datasets.declared._DECLARED", {})
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def declare(tmp_path):
    def declare(text, file="data.yaml"):
        path = tmp_path / file
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return register_data_files([path])

    return declare


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


IMAGE, LABELS = np.zeros((8, 8, 3), np.uint8), np.arange(64, dtype=np.uint8).reshape(8, 8) % 2


# --- semantic segmentation ---


def test_label_maps_of_sub_folders(declare, tmp_path):
    for city, ending in (("aachen", ".tif"), ("bonn", ".webp")):
        save(tmp_path / "images" / city / f"a_left{ending}", IMAGE)
        save(tmp_path / "labels" / city / "a_ids.png", LABELS)
        save(tmp_path / "labels" / city / "a_color.png", IMAGE)
    names = declare(
        """
        road_train: &road
          kind: sem_seg
          images: images
          labels: labels
          label_ending: _ids.png
          image_ending: _left.tif
          list: some.txt
          classes: [road, 7]
          colors: {7: [1, 2, 3], road: "#80ff00"}
          groups: {head: [7], tail: [road]}
          ignore_label: 200
        road_webp:
          <<: *road
          image_ending: _left.webp
          list:
        """
    )
    assert names == ["road_train", "road_webp"]
    (tmp_path / "some.txt").write_text("aachen/a\n")
    (record,) = DatasetCatalog.get("road_train")
    assert record == {
        "file_name": str(tmp_path / "images/aachen/a_left.tif"),
        "sem_seg_file_name": str(tmp_path / "labels/aachen/a_ids.png"),
    }
    metadata = MetadataCatalog.get("road_train")
    assert metadata.stuff_classes == ["road", "7"]
    assert metadata.stuff_colors == [[128, 255, 0], [1, 2, 3]]
    assert metadata.class_groups == {"head": [1], "tail": [0]}
    assert metadata.ignore_label == 200
    assert get_class_stats("road_train").pixel_count.tolist() == [32, 32]
    with raises_naming(ValueError, "road_webp", "aachen/a"):
        DatasetCatalog.get("road_webp")


# --- instances ---


def test_instances_in_both_formats(declare, tmp_path):
    write_rectangles(tmp_path / "a", 3)
    (tmp_path / "names.txt").write_text("red\ngreen\n\nblue\n")
    declare(
        """
        of_lvis: {kind: instances, images: a, annotations: a/lvis.json, format: lvis, rare: 1,
                  common: 2}
        of_coco: {kind: instances, images: a, annotations: a/lvis.json, classes: names.txt,
                  metrics: lvis, training_set: of_lvis}
        """
    )
    assert len(DatasetCatalog.get("of_lvis")) == 3
    metadata = MetadataCatalog.get("of_lvis")
    assert (metadata.evaluator_type, metadata.frequency_bounds) == ("lvis", (1, 2))
    metadata = MetadataCatalog.get("of_coco")
    assert (metadata.evaluator_type, metadata.frequency_bounds) == ("lvis", (10, 100))
    assert metadata.thing_classes == ["red", "green", "blue"]
    assert metadata.training_set == "of_lvis"


# --- image classification ---

FOLDERS = """
    pets: {kind: classification, images: train}
    pets_val: {kind: classification, images: val, training_set: pets}
    """


def test_a_folder_a_class(declare, tmp_path):
    for file in ("train/dog/a.png", "train/cat/deep/a.webp", "train/emu/a.jpg", "val/emu/b.png"):
        save(tmp_path / file, IMAGE)
    declare(FOLDERS)
    # The validation set has images of one class alone, and is read first.
    (record,) = DatasetCatalog.get("pets_val")
    assert record["label"] == 2 and record["file_name"] == str(tmp_path / "val/emu/b.png")
    assert MetadataCatalog.get("pets_val").thing_classes == ["cat", "dog", "emu"]
    labels = {Path(r["file_name"]).suffix: r["label"] for r in DatasetCatalog.get("pets")}
    assert labels == {".webp": 0, ".png": 1, ".jpg": 2}
    save(tmp_path / "val/fox/b.png", IMAGE)
    with raises_naming(ValueError, "pets_val", "fox"):
        DatasetCatalog.get("pets_val")


def test_a_csv_file(declare, tmp_path):
    for file in ("a.png", "b.png", "c.png"):
        save(tmp_path / "images" / file, IMAGE)
    (tmp_path / "t.csv").write_text('id,file,species\n1,a.png,10\n2,b.png,"9"\n')
    (tmp_path / "v.csv").write_text("\ufefffile,species\nc.png,10\n")
    declare(
        """
        s: &s {kind: classification, images: images, list: t.csv, columns: [file, species]}
        s_val: {<<: *s, list: v.csv, training_set: s}
        s_named: {<<: *s, classes: [10, 9]}
        s_other: {<<: *s, columns: [path, species]}
        """
    )
    assert [r["label"] for r in DatasetCatalog.get("s")] == [1, 0]
    assert [r["label"] for r in DatasetCatalog.get("s_val")] == [1]
    assert [r["label"] for r in DatasetCatalog.get("s_named")] == [0, 1]
    with raises_naming(ValueError, "s_other", "t.csv", "'path'", "id, file, species"):
        DatasetCatalog.get("s_other")
    (tmp_path / "images/a.png").unlink()
    with raises_naming(FileNotFoundError, "s", "a.png"):
        DatasetCatalog.get("s")


# --- files ---


def test_the_same_again_is_fine_and_another_content_is_not(declare):
    text = "pets_x: {kind: classification, images: a}"
    assert declare(text) == declare(text) == declare(text.replace("a}", "./a }"), "b.yaml")
    with raises_naming(ValueError, "data.yaml", "pets_x", "b.yaml"):
        declare(text.replace("a}", "other}"), "b.yaml")
    with raises_naming(ValueError, "camvid_sem_seg_val"):
        declare("camvid_sem_seg_val: {kind: classification, images: a}")


def test_nothing_of_a_file_with_an_error_is_registered(declare):
    with raises_naming(ValueError, "data.yaml", "bad", "kind"):
        declare(FOLDERS + "bad: {kind: photos}")
    assert "pets" not in DatasetCatalog.list()


COCO = "images: a, annotations: b"
SEM_SEG = "kind: sem_seg, images: a, labels: b"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["nothing"]),
        ("- a", ["list"]),
        ("a: [", ["not YAML"]),
        ("a: !!python/object/apply:os.system ['true']", ["not YAML", "python/object"]),
        ("a: {kind: classification}", ["a", "images"]),
        ("a: {kind: classification, images: }", ["a", "images"]),
        ("a: {kind: classification, images: 3}", ["a: images", "3"]),
        ("a: {kind: classification, images: b, lists: c}", ["lists", "list"]),
        ("a: {kind: classification, images: b, images: c}", ["images", "twice"]),
        ("a: {kind: classification, images: b}\na: {kind: classification, images: c}", ["twice"]),
        ("7: {kind: classification, images: b}", ["7"]),
        ("a: text", ["a", "'text'"]),
        (f"a: {{{SEM_SEG}, classes: [x, x]}}", ["a: classes", "'x'"]),
        (f"a: {{{SEM_SEG}, classes: [x, no]}}", ["a: classes", "False"]),
        (f"a: {{{SEM_SEG}, classes: no.txt}}", ["a: classes", "no.txt"]),
        (f"a: {{{SEM_SEG}, classes: [x], ignore_label: 256}}", ["a: ignore_label", "256"]),
        (f"a: {{{SEM_SEG}, classes: [x], ignore_label: 0}}", ["ignore_label", "0"]),
        (f"a: {{{SEM_SEG}, classes: [x], colors: [[0, 0, 300]]}}", ["a: colors", "300"]),
        (f"a: {{{SEM_SEG}, classes: [x], colors: {{y: '#000000'}}}}", ["a", "colors", "'y'"]),
        (f"a: {{{SEM_SEG}, classes: [x, y], groups: {{h: [x]}}}}", ["a", "groups", "'y'"]),
        (f"a: {{kind: instances, {COCO}, rare: 100}}", ["rare", "100"]),
        (f"a: {{kind: instances, {COCO}, metrics: voc}}", ["a: metrics", "'voc'", "lvis"]),
        (f"a: {{kind: instances, {COCO}, format: lvis, metrics: coco}}", ["a", "metrics"]),
        ("a: {kind: classification, images: b, columns: [x]}", ["a: columns"]),
        ("a: &a\n  kind: *a", ["kind"]),
    ],
)
def test_errors_are_one_line_that_names_the_file(declare, text, parts):
    with raises_naming((ValueError, FileNotFoundError), *parts) as error:
        declare(text)
    assert "data.yaml" in str(error.value)
    assert "a" not in DatasetCatalog.list()


def test_a_file_that_is_a_bomb_takes_no_time(declare, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    start = time.monotonic()
    with raises_naming(ValueError, "a0"):
        declare("\n".join(lines))
    assert time.monotonic() - start < 2
    (tmp_path / "big.yaml").write_bytes(b" " * 5_000_000)
    with raises_naming(ValueError, "big.yaml"):
        register_data_files([tmp_path / "big.yaml"])
    with raises_naming(FileNotFoundError, "absent.yaml"):
        register_data_files([tmp_path / "absent.yaml"])
