# SPDX-License-Identifier: Apache-2.0
"""Damaged and crafted data sets, checkpoints and caches, for benchmarks/bad_inputs.py."""

import argparse
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_input_stage import NAMES, Case, Place
from PIL import Image

from longtail.config import get_config_file

Change = Callable[[Path], Any]


class Crafted:
    """What runs a command when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        """Name the file that the command leaves."""
        self.marker = marker

    def __reduce__(self) -> tuple:
        """Run it."""
        return os.system, (f"touch {self.marker}",)


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
    _data("lvis", "no annotations", _json(lambda d: d.pop("annotations")), FILE),
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
        _json(lambda d: [i.pop("coco_url", 0) or i.pop("file_name", 0) for i in d["images"]]),
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
        "test names in another order",
        _json(
            lambda d: d["categories"].__setitem__(
                slice(None),
                [
                    {**c, "name": o["name"]}
                    for c, o in zip(d["categories"], d["categories"][::-1], strict=True)
                ],
            ),
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
    _data("images", "empty test list", _list("", "val"), "synthetic_lt_val"),
]


def _state(place: Place, kind: str = "pixels") -> dict:
    return torch.load(place.stage.model(kind), weights_only=True)


def _saved(content: Any, name: str = "bad.pth", *, zip_file: bool = True) -> Callable[[Place], str]:
    """Write what a function of the place gives as a checkpoint."""

    def write(place: Place) -> str:
        path = place.folder / name
        value = content(place) if callable(content) else content
        if name.endswith(".pkl"):
            path.write_bytes(pickle.dumps(value))
        else:
            torch.save(value, path, _use_new_zipfile_serialization=zip_file)
        return str(path)

    return write


def _bytes(content: bytes | Callable[[bytes], bytes], name: str = "bad.pth") -> Callable:
    def write(place: Place) -> str:
        data = content
        if callable(content):
            data = content(place.stage.model("pixels").read_bytes())
        return place.write(name, data)

    return write


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def _changed(change: Callable[[dict], Any], kind: str = "pixels") -> Callable[[Place], dict]:
    def content(place: Place) -> dict:
        state = _state(place, kind)
        change(state["model"])
        return {"model": state["model"]}

    return content


def _crafted(place: Place) -> dict:
    return {"model": {"weight": Crafted(place.marker)}}


def _npz(place: Place) -> str:
    path = place.folder / "bad.npz"
    np.savez(path, weight=np.array([Crafted(place.marker)], dtype=object))
    return str(path)


WEIGHTS = {
    "empty": (_bytes(b""), "bad.pth"),
    "text": (_bytes(b"weights"), "bad.pth"),
    "cut": (_bytes(lambda data: data[: len(data) // 2]), "bad.pth"),
    "a flipped byte": (_bytes(_flipped), "bad.pth"),
    "a list": (_saved([1, 2]), "bad.pth"),
    "a tensor": (_saved(torch.zeros(3)), "bad.pth"),
    "no tensors": (_saved({}), "the weights lack"),
    "a name that is a number": (_saved({"model": {5: torch.zeros(2)}}), "bad.pth"),
    "a model that is a list": (_saved({"model": [torch.zeros(2)]}), "bad.pth"),
    "text for a tensor": (_saved(_changed(lambda m: m.update({next(iter(m)): "x"}))), "bad.pth"),
    "another model": (_saved(lambda p: _state(p, "images")), "the weights lack"),
    "NaN": (
        _saved(
            _changed(lambda m: [t.fill_(float("nan")) for t in m.values() if t.is_floating_point()])
        ),
        "finite",
    ),
    "another number of classes": (
        _saved(_changed(lambda m: m.update({k: t[:3] for k, t in m.items() if "predictor" in k}))),
        "predictor",
    ),
    "a missing tensor": (
        _saved(_changed(lambda m: m.pop("sem_seg_head.predictor.bias", None))),
        "predictor.bias",
    ),
    "a Namespace": (
        _saved(lambda p: {**_state(p), "args": argparse.Namespace(a=1)}),
        "convert-weights",
    ),
    "a numpy scalar": (_saved(lambda p: {**_state(p), "best": np.float64(1)}), "convert-weights"),
    "a folder": (lambda p: str(p.folder), "folder"),
    "a missing file": (lambda p: "nowhere.pth", "nowhere.pth"),
    "a URL without checksum": (lambda p: "http://127.0.0.1:9/a.pth", "sha256"),
    "a URL that is down": (
        lambda p: f"http://127.0.0.1:9/a.pth#sha256={'0' * 64}",
        "http://127.0.0.1:9/a.pth",
    ),
    "a checksum that is none": (lambda p: "http://127.0.0.1:9/a.pth#sha256=12", "sha256"),
    "an unknown scheme": (lambda p: "s4://bucket/a.pth", "s4://bucket/a.pth"),
    "pickle, empty": (_bytes(b"", "bad.pkl"), "bad.pkl"),
    "pickle, text": (_bytes(b"weights", "bad.pkl"), "bad.pkl"),
    "pickle of a Namespace": (_saved(argparse.Namespace(a=1), "bad.pkl"), "argparse"),
    "pickle of a list": (_saved([1], "bad.pkl"), "bad.pkl"),
}
CRAFTED = {
    "checkpoint": _saved(_crafted),
    "old checkpoint": _saved(_crafted, zip_file=False),
    "pickle": _saved(_crafted, "bad.pkl"),
    "npz": _npz,
    "npy": lambda place: (
        np.save(place.folder / "bad.npy", np.array([Crafted(place.marker)], dtype=object)),
        str(place.folder / "bad.npy"),
    )[1],
}


def _evaluated(write: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    return lambda place: place.train(
        "pixels", "MODEL.WEIGHTS", write(place), options=["--eval-only"]
    )


def _trained(write: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    return lambda place: place.train("pixels", "MODEL.WEIGHTS", write(place))


def _converted(write: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    return lambda place: ["convert-weights", write(place), str(place.folder / "out.pth")]


def _exported(write: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    files = lambda place: ["--weights", write(place), "--output", str(place.folder / "out.pth")]  # noqa: E731
    return lambda place: ["export", *files(place), *place.keys("pixels")]


def _pictured(write: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    base = get_config_file("quickstart/deeplabv3plus_lite0_rr.yaml")
    model = "MODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 8}, TIMM: {NAME: test_efficientnet}}"

    def make(place: Place) -> list[str]:
        config = place.write("eight.yaml", f"_BASE_: {base}\n{model}\n")
        options = ["--output", str(place.output), "--dataset", "synthetic_sem_seg_val"]
        return ["visualize", *options, "--model", "a", config, write(place)]

    return make


def _plotted(write: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    return lambda place: [
        *("plot-calibration", "--weights", write(place), "--output", str(place.output)),
        *place.keys("second"),
    ]


def _second(write: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    return lambda place: place.train("second", "MODEL.WEIGHTS", write(place))


READERS = {
    "train --eval-only": _evaluated,
    "train": _trained,
    "convert-weights": _converted,
    "export": _exported,
    "visualize": _pictured,
    "plot-calibration": _plotted,
    "second stage": _second,
}
CONVERTED = ("empty", "text", "cut", "a list", "a tensor", "no tensors", "a folder", "pickle, text")
WEIGHT_CASES = [
    *(
        Case(f"weights: {name}", (expect,), _evaluated(write))
        for name, (write, expect) in WEIGHTS.items()
    ),
    *(
        Case(
            f"convert-weights: {name}",
            ("bad.p",) if name != "a folder" else (),
            _converted(WEIGHTS[name][0]),
        )
        for name in CONVERTED
    ),
    *(
        Case(
            f"crafted {name}: {command}",
            ("bad.",),
            reader(write),
            crafted=True,
            program=command == "train",
        )
        for command, reader in READERS.items()
        for name, write in CRAFTED.items()
    ),
]


def _resumed(change: Change, kind: str = "pixels", *keys: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        change(place.resume(kind))
        return place.train(kind, "SOLVER.MAX_ITER", "4", *keys, options=["--resume"])

    return make


def _every(folder: Path, content: Callable[[bytes], bytes]) -> None:
    for path in folder.glob("model_*.pth"):
        path.write_bytes(content(path.read_bytes()))


def _nothing(folder: Path) -> None:
    pass


def _crafted_run(folder: Path) -> None:
    for path in folder.glob("model_*.pth"):
        torch.save({"model": Crafted(folder.parent / "executed")}, path)


RESUME_CASES = [
    Case(
        "--resume: another width",
        ("shape",),
        _resumed(_nothing, "pixels", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16"),
    ),
    Case(
        "--resume: another optimizer",
        ("SOLVER.OPTIMIZER",),
        _resumed(_nothing, "pixels", "SOLVER.OPTIMIZER", "AdamW"),
    ),
    Case(
        "--resume: another backbone",
        ("another",),
        _resumed(_nothing, "pixels", "MODEL.TIMM.NAME", "test_resnet"),
    ),
    Case(
        "--resume: all cut",
        ("--resume",),
        _resumed(lambda f: _every(f, lambda d: d[: len(d) // 2])),
    ),
    Case("--resume: all empty", ("--resume",), _resumed(lambda f: _every(f, lambda d: b""))),
    Case(
        "--resume: all flipped",
        ("--resume",),
        _resumed(lambda f: _every(f, _flipped)),
        program=True,
    ),
    Case("--resume: crafted", ("model_final.pth",), _resumed(_crafted_run), crafted=True),
    Case(
        "a finished run",
        ("--overwrite",),
        lambda place: (place.resume("pixels"), place.train("pixels"))[1],
        program=True,
    ),
]


def _index(**values: Any) -> Change:
    def changed(folder: Path) -> None:
        path = folder / "cache.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return changed


def _cached(change: Change, *keys: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        change(place.cache())
        return place.second(*keys)

    return make


def _shard(content: bytes | Callable[[bytes], bytes]) -> Change:
    def changed(folder: Path) -> None:
        path = folder / "shard_000000.pt"
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return changed


CACHE = {
    "no index": lambda f: (f / "cache.json").unlink(),
    "empty index": lambda f: (f / "cache.json").write_text(""),
    "nested index": lambda f: (f / "cache.json").write_text("[" * 10000),
    "an index that is a list": lambda f: (f / "cache.json").write_text("[]"),
    "images_per_shard 0": _index(images_per_shard=0),
    "images_per_shard -1": _index(images_per_shard=-1),
    "epochs 1e18": _index(epochs=10**18),
    "epochs 1e18 as a float": _index(epochs=1e18),
    "epochs 0": _index(epochs=0),
    "epochs of text": _index(epochs="two"),
    "num_images 0": _index(num_images=0),
    "num_images 1e18": _index(num_images=10**18),
    "config of text": _index(config="x"),
    "another version": _index(version=99),
    "other weights": _index(weights="0" * 64),
    "a missing shard": lambda f: (f / "shard_000000.pt").unlink(),
    "an empty shard": _shard(b""),
    "a shard of text": _shard(b"features"),
    "a cut shard": _shard(lambda data: data[: len(data) // 2]),
    "a shard of another kind": lambda f: torch.save({"features": 5}, f / "shard_000000.pt"),
}
CACHE_CASES = [
    *(
        Case(f"RoI cache: {name}", ("roi_cache",), _cached(change))
        for name, change in CACHE.items()
    ),
    Case(
        "RoI cache: crafted",
        ("shard_000000.pt",),
        _cached(
            lambda f: torch.save(
                {"features": Crafted(f.parent / "executed")}, f / "shard_000000.pt"
            )
        ),
        crafted=True,
    ),
    Case(
        "RoI cache: another config",
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",),
        _cached(_nothing, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"),
    ),
]


def _foreign_set(place: Place) -> list[str]:
    shutil.rmtree(place.data("scenes"))
    (place.datasets / NAMES["scenes"]).mkdir()
    return place.train("pixels")


FILE_CASES: list[Case] = [
    *(*SCENE_CASES, *LVIS_CASES, *IMAGE_CASES, *WEIGHT_CASES, *RESUME_CASES, *CACHE_CASES),
    Case("scenes: an empty folder", ("synthetic",), _foreign_set),
]
