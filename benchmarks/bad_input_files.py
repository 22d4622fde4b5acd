# SPDX-License-Identifier: Apache-2.0
"""Damaged and crafted checkpoints and caches, for benchmarks/bad_inputs.py."""

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_input_stage import Case, Change, Place

from longtail.config import get_config_file


class Crafted:
    """What runs a command when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        """Name the file that the command leaves."""
        self.marker = marker

    def __reduce__(self) -> tuple:
        """Run it."""
        return os.system, (f"touch {self.marker}",)


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
        _resumed(_nothing, "pixels", "SOLVER.OPTIMIZER", "SGD"),
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


FILE_CASES: list[Case] = [*WEIGHT_CASES, *RESUME_CASES, *CACHE_CASES]
