# SPDX-License-Identifier: Apache-2.0
"""Damaged and odd data sets, for benchmarks/bad_inputs.py."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_input_stage import NAMES, Case, Change, Place
from PIL import Image


def _data(kind: str, name: str, change: Change, *expect: str, program: bool = False) -> Case:
    """A training on a data set that was changed."""

    def make(place: Place) -> list[str]:
        change(place.data(kind))
        return place.train({"scenes": "pixels", "lvis": "boxes", "images": "images"}[kind])

    return Case(f"{kind}: {name}", expect, make, program=program)


def _first(folder: Path, part: str, split: str = "training") -> Path:
    return sorted((folder / part / split).iterdir())[0]


def _all_labels(folder: Path, value: int, split: str) -> None:
    for path in (folder / "annotations_detectron2" / split).iterdir():
        size = Image.open(path).size
        Image.new("L", size, value).save(path)


def _each_image(folder: Path, content: bytes) -> None:
    for path in (folder / "images" / "training").iterdir():
        path.write_bytes(content)


def _labels(change: Callable[[Path], Any]) -> Change:
    """Change all training labels: not every one is drawn in two iterations."""

    def changed(folder: Path) -> None:
        for path in (folder / "annotations_detectron2" / "training").iterdir():
            change(path)

    return changed


def _images(change: Callable[[Path], Any], part: str = "images/training") -> Change:
    def changed(folder: Path) -> None:
        for path in sorted((folder / part).iterdir()):
            change(path)

    return changed


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _save(size: tuple[int, int] = (64, 64), mode: str = "L", value: Any = 0) -> Change:
    return lambda path: Image.new(mode, size, value).save(path)


SCENE_CASES = [
    _data("scenes", "no folder", shutil.rmtree, "synthetic", program=True),
    _data("scenes", "no images", _images(os.remove), "training"),
    _data("scenes", "no labels", _labels(os.remove), "training"),
    _data(
        "scenes",
        "one label is missing",
        lambda f: _first(f, "annotations_detectron2").unlink(),
        "training",
    ),
    _data(
        "scenes", "no validation", lambda f: shutil.rmtree(f / "images/validation"), "validation"
    ),
    _data("scenes", "images are empty", _images(lambda p: p.write_bytes(b"")), "training"),
    _data("scenes", "images are text", _images(lambda p: p.write_text("x")), "training"),
    _data("scenes", "images are cut", _images(_cut), "training"),
    _data("scenes", "images of another size", _images(_save((20, 64), "RGB")), "training"),
    _data("scenes", "images of one pixel", _images(_save((1, 1), "RGB")), "training"),
    _data("scenes", "labels are empty", _labels(lambda p: p.write_bytes(b"")), "training"),
    _data("scenes", "labels are cut", _labels(_cut), "training"),
    _data("scenes", "labels in colour", _labels(_save(mode="RGB")), "training"),
    _data("scenes", "labels of 2 colours", _labels(_save(mode="RGBA")), "training"),
    _data("scenes", "labels out of range", _labels(_save(value=77)), "77"),
    _data("scenes", "labels of another size", _labels(_save((32, 64))), "training"),
    _data("scenes", "labels with 16 bits", _labels(_save(mode="I;16", value=7000)), "training"),
    _data(
        "scenes",
        "all training labels ignored",
        lambda f: _all_labels(f, 255, "training"),
        "ignored",
    ),
    _data(
        "scenes", "all test labels ignored", lambda f: _all_labels(f, 255, "validation"), "ignored"
    ),
    _data("scenes", "test labels out of range", lambda f: _all_labels(f, 77, "validation"), "77"),
    _data(
        "scenes",
        "test labels of another size",
        _images(_save((32, 64)), "annotations_detectron2/validation"),
        "validation",
    ),
    _data("scenes", "test images cut", _images(_cut, "images/validation"), "validation"),
    _data(
        "scenes",
        "a folder in place of an image",
        lambda f: (_first(f, "images").unlink(), (f / "images/training/0.png").mkdir()),
        "training",
    ),
]


def _json(change: Callable[[dict], Any], split: str = "train") -> Change:
    def changed(folder: Path) -> None:
        path = folder / f"lvis_synthetic_{split}.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return changed


def _raw(text: str | bytes, split: str = "train") -> Change:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / f"lvis_synthetic_{split}.json").write_bytes(data)


def _annotations(**values: Any) -> Change:
    return _json(lambda d: [a.update(values) for a in d["annotations"]])


def _of_images(**values: Any) -> Change:
    return _json(lambda d: [image.update(values) for image in d["images"]])


FILE = "lvis_synthetic_train.json"
POLYGON = [1.0, 1.0, float("nan"), 5.0, 9.0, 9.0]
LVIS_CASES = [
    _data("lvis", "no JSON", lambda f: (f / FILE).unlink(), FILE, program=True),
    _data("lvis", "empty JSON", _raw(""), FILE),
    _data("lvis", "cut JSON", lambda f: _cut(f / FILE), FILE),
    _data("lvis", "binary JSON", _raw(b"\xff\xfe\x00"), FILE),
    _data("lvis", "nested 10,000 deep", _raw("[" * 10000 + "]" * 10000), FILE),
    _data("lvis", "a list", _raw("[]"), FILE),
    _data("lvis", "null", _raw("null"), FILE),
    _data("lvis", "no sections", _raw("{}"), FILE),
    _data("lvis", "no annotations", _json(lambda d: d.pop("annotations")), "lvis_synthetic_train"),
    _data("lvis", "no categories", _json(lambda d: d.pop("categories")), FILE),
    _data("lvis", "no images", _json(lambda d: d["images"].clear()), "lvis_synthetic_train"),
    _data("lvis", "annotations is a dict", _json(lambda d: d.update(annotations={})), FILE),
    _data("lvis", "annotation is null", _json(lambda d: d["annotations"].append(None)), FILE),
    _data("lvis", "no bbox", _json(lambda d: d["annotations"][0].pop("bbox")), FILE),
    _data("lvis", "bbox of 3 numbers", _annotations(bbox=[1, 2, 3]), FILE),
    _data("lvis", "bbox of text", _annotations(bbox=["a", 2, 3, 4]), FILE),
    _data("lvis", "negative bbox", _annotations(bbox=[1, 2, -3, -4]), FILE),
    _data("lvis", "NaN bbox", _annotations(bbox=[float("nan"), 2, 3, 4]), FILE),
    _data("lvis", "infinite bbox", _annotations(bbox=[0, 0, 1e400, 4]), FILE),
    _data("lvis", "polygon with NaN", _annotations(segmentation=[POLYGON]), FILE),
    _data("lvis", "polygon of 2 points", _annotations(segmentation=[[1, 1, 2, 2]]), FILE),
    _data("lvis", "odd polygon", _annotations(segmentation=[[1, 1, 2, 2, 3, 3, 4]]), FILE),
    _data("lvis", "polygon of 1e9", _annotations(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), FILE),
    _data(
        "lvis",
        "RLE that is too short",
        _annotations(segmentation={"counts": [5], "size": [64, 64]}),
        FILE,
    ),
    _data(
        "lvis",
        "RLE of another size",
        _annotations(segmentation={"counts": [25], "size": [5, 5]}),
        FILE,
    ),
    _data("lvis", "unknown category", _annotations(category_id=9999), FILE),
    _data("lvis", "category is text", _annotations(category_id="cup"), FILE),
    _data("lvis", "unknown image", _annotations(image_id=9999999), FILE),
    _data("lvis", "negative area", _annotations(area=-5.0), FILE),
    _data("lvis", "size 0", _of_images(height=0, width=0), FILE),
    _data("lvis", "height is text", _of_images(height="big"), FILE),
    _data("lvis", "wrong size", _of_images(height=4000), "4000"),
    _data(
        "lvis",
        "no file name",
        _json(lambda d: [(i.pop("coco_url", 0), i.pop("file_name", 0)) for i in d["images"]]),
        FILE,
    ),
    _data(
        "lvis",
        "image does not exist",
        _of_images(coco_url="http://x/nowhere.png", file_name="nowhere.png"),
        "nowhere.png",
    ),
    _data("lvis", "image id twice", _json(lambda d: d["images"].append(d["images"][0])), FILE),
    _data(
        "lvis",
        "category id twice",
        _json(lambda d: d["categories"].append(d["categories"][0])),
        FILE,
    ),
    _data(
        "lvis", "category name is null", _json(lambda d: d["categories"][0].update(name=None)), FILE
    ),
    _data(
        "lvis", "test JSON is missing", lambda f: (f / "lvis_synthetic_val.json").unlink(), "val"
    ),
    _data("lvis", "test JSON is cut", lambda f: _cut(f / "lvis_synthetic_val.json"), "val"),
    _data(
        "lvis",
        "a test name that is another",
        _json(
            lambda d: d["categories"][3].update(name="another", synonyms=[]),
            "val",
        ),
        "val",
    ),
]


def _list(text: str | Callable[[str], str], split: str = "train") -> Change:
    def changed(folder: Path) -> None:
        path = folder / f"synthetic_lt_{split}.txt"
        path.write_text(text if isinstance(text, str) else text(path.read_text()))

    return changed


LIST = "synthetic_lt_train"
IMAGE_CASES = [
    _data("images", "no list", lambda f: (f / f"{LIST}.txt").unlink(), LIST),
    _data("images", "empty list", _list(""), LIST),
    _data("images", "list without labels", _list(lambda t: t.replace(" ", "_")), LIST),
    _data("images", "labels are text", _list(lambda t: t.replace(" 0\n", " zero\n")), LIST),
    _data("images", "label out of range", _list(lambda t: t.replace(" 0\n", " 99\n")), LIST),
    _data("images", "negative label", _list(lambda t: t.replace(" 0\n", " -1\n")), LIST),
    _data("images", "image does not exist", _list(lambda t: "nowhere.png 0\n" + t), "nowhere.png"),
    _data("images", "image outside", _list(lambda t: "../../x.png 0\n" + t), "x.png"),
    _data(
        "images", "binary list", lambda f: (f / f"{LIST}.txt").write_bytes(b"\xff\xfe 0\n"), LIST
    ),
    _data(
        "images", "images are cut", lambda f: [_cut(p) for p in f.rglob("*.png")], "synthetic_lt"
    ),
    _data("images", "an image twice", _list(lambda t: t.splitlines()[0] + "\n" + t), LIST),
    _data("images", "empty test list", _list("", "test"), "synthetic_lt_test"),
]


def _foreign_set(place: Place) -> list[str]:
    shutil.rmtree(place.data("scenes"))
    (place.datasets / NAMES["scenes"]).mkdir()
    return place.train("pixels")


DATA_CASES: list[Case] = [
    *(*SCENE_CASES, *LVIS_CASES, *IMAGE_CASES),
    Case("scenes: an empty folder", ("synthetic",), _foreign_set),
]
