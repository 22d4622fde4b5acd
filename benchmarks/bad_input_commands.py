# SPDX-License-Identifier: Apache-2.0
"""Bad options of every command, for benchmarks/bad_inputs.py."""

import socket
from collections.abc import Callable

from bad_input_stage import Case, Place


def _line(expect: tuple[str, ...], *argv: str, program: bool = False) -> Case:
    """A command line, in which FOLDER stands for the case's folder."""

    def make(place: Place) -> list[str]:
        return [part.replace("FOLDER", str(place.folder)) for part in argv]

    return Case(" ".join(argv), expect, make, program=program)


def _pictures(expect: str, folder: str, dataset: str, *options: str) -> Case:
    """Pictures of the predictions in a folder."""
    predictions = ("--predictions", "a", folder, "--dataset", dataset)
    return _line((expect,), "visualize", "--output", "FOLDER/p", *predictions, *options)


def _trained(*options: str, expect: tuple[str, ...], keys: tuple[str, ...] = ()) -> Case:
    name = " ".join(["train", *options, *keys])
    return Case(name, expect, lambda place: place.train("pixels", *keys, options=options))


def _evaluated(key: str, value: str, *others: str) -> Case:
    """An evaluation of good weights."""

    def make(place: Place) -> list[str]:
        weights = ["MODEL.WEIGHTS", str(place.stage.model("pixels"))]
        return place.train("pixels", *weights, *others, key, value, options=["--eval-only"])

    return Case(f"train --eval-only {key} {value}", (key,), make)


AS_TORCHRUN = """
import os, sys
from longtail.commands import main
os.environ.update(TORCHELASTIC_RUN_ID="1", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0",
                  LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])
main(sys.argv[2:])
"""


def _busy_port(place: Place) -> list[str]:
    """A port that somebody else listens to; the socket lives as long as this process."""
    _busy_port.socket = socket.create_server(("127.0.0.1", 0))
    port = str(_busy_port.socket.getsockname()[1])
    # torchrun itself ends in a traceback of its own, before it starts anything of ours.
    return ["-c", AS_TORCHRUN, port, *place.train("pixels")]


def _output_is_a_file(place: Place) -> list[str]:
    place.write("output", "x")
    return place.train("pixels")


def _plot(*extra: str) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        first = ["--weights", str(place.stage.model("second")), "--output", str(place.output)]
        return ["plot-calibration", *first, *extra, *place.keys("second")]

    return make


def _cached(*extra: str, keys: tuple[str, ...] = ()) -> Callable[[Place], list[str]]:
    def make(place: Place) -> list[str]:
        weights = ["MODEL.WEIGHTS", str(place.stage.model("boxes"))]
        where = ["--output", str(place.folder / "cache")]
        return ["cache-roi-features", *where, *extra, *place.keys("second", *weights, *keys)]

    return make


GENERATE = ("generate", "--output", "FOLDER/new")
LVIS, CLASSES = (*GENERATE, "--lvis"), (*GENERATE, "--classification")
COMMAND_CASES = [
    _line(("trian", "train"), "trian", program=True),
    _line(("--nothing",), "train", "--nothing", program=True),
    _line(("nowhere.yaml",), "train", "--config-file", "nowhere.yaml", program=True),
    _line(("/",), "train", "--config-file", "/"),
    _trained("--num-gpus", "2", expect=("--num-gpus 2", "torchrun")),
    _trained("--num-gpus", "-1", expect=("--num-gpus",)),
    _trained("--num-gpus", "x", expect=("--num-gpus",)),
    _trained("--num-machines", "2", expect=("--num-machines 2", "torchrun")),
    _trained("--num-machines", "0", expect=("--num-machines",)),
    _trained("--eval-only", expect=("MODEL.WEIGHTS",)),
    _line(
        ("nowhere",),
        *("calibrate", "--dataset", "nowhere", "--predictions", "a.json", "--output", "FOLDER/c"),
    ),
    _evaluated("DATASETS.TEST", "()"),
    _evaluated("MODEL.POST_HOC.METHOD", "magic"),
    _evaluated("MODEL.POST_HOC.TAU", "-1.0", "MODEL.POST_HOC.METHOD", "tau_norm"),
    _evaluated("MODEL.POST_HOC.NCM_FEATURES", "raw", "MODEL.POST_HOC.METHOD", "ncm"),
    _evaluated("MODEL.POST_HOC.NCM_DISTANCE", "manhattan", "MODEL.POST_HOC.METHOD", "ncm"),
    _evaluated("TEST.SEM_SEG.MODE", "tiles"),
    _trained(expect=("odd length",), keys=("SOLVER.MAX_ITER",)),
    _trained(expect=("MODEL.POST_HOC.METHOD",), keys=("MODEL.POST_HOC.METHOD", "tau_norm")),
    _trained("--eval-only", expect=("MODEL.POST_HOC.TAU",), keys=("MODEL.POST_HOC.TAU", "1e30")),
    _trained(expect=("SCALES",), keys=("TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[]")),
    _trained(
        expect=("TEST.EXPECTED_RESULTS",),
        keys=("TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 200.0, 1.0]]"),
    ),
    _trained(expect=("MODEL.WEIGHTS",), keys=("MODEL.WEIGHTS", "nowhere.pth")),
    Case("train: OUTPUT_DIR is a file", ("output",), _output_is_a_file),
    Case(
        "train: OUTPUT_DIR below a file",
        ("printed.txt",),
        lambda place: [*place.train("pixels"), "OUTPUT_DIR", str(place.folder / "printed.txt/x")],
    ),
    Case("torchrun: port in use", ("in use",), _busy_port, program=True),
    *(
        _line(expect, *GENERATE, *options)
        for options, expect in (
            (("--classes", "0"), ("--classes",)),
            (("--classes", "-3"), ("--classes",)),
            (("--classes", "x"), ("--classes",)),
            (("--size", "0"), ("size",)),
            (("--size", "-8"), ("size",)),
            (("--num-train", "0"), ("train",)),
            (("--num-val", "-1"), ("val",)),
            (("--region-imbalance", "0.5"), ("--region-imbalance",)),
            (("--region-imbalance", "nan"), ("--region-imbalance",)),
            (("--pixel-imbalance", "inf"), ("--pixel-imbalance",)),
            (("--pixel-imbalance", "1e30"), ("--pixel-imbalance",)),
            (("--seed", "-1"), ("seed",)),
        )
    ),
    _line(("--classes",), *LVIS, "--classes", "1"),
    _line(("--region-imbalance",), *LVIS, "--region-imbalance", "-1"),
    _line(("--imbalance",), *CLASSES, "--imbalance", "0"),
    _line(("--images",), *CLASSES, "--images", "0"),
    _line(("--classes",), *CLASSES, "--classes", "1000000"),
    _line(("choose one",), *LVIS, "--classification"),
    _line(("/dev/null",), "generate", "--output", "/dev/null/x"),
    _line(("/proc",), "generate", "--output", "/proc/nothing"),
    _line(("name",), "prepare"),
    _line(("nothing",), "prepare", "nothing"),
    _line(("ADEChallenge",), "prepare", "ade20k", program=True),
    _line(("nowhere",), "prepare", "camvid", "--source", "nowhere"),
    _line(("workers",), "prepare", "camvid", "--source", ".", "--workers", "0"),
    _line(("night",), "prepare", "camvid", "--source", ".", "--splits", "night"),
    _line(("seed",), "prepare", "camvid", "--source", ".", "--seed", "3"),
    _line(("--dataset",), "class-statistics"),
    _line(("nowhere",), "class-statistics", "--dataset", "nowhere", program=True),
    _line(
        ("workers",),
        *("class-statistics", "--dataset", "synthetic_sem_seg_train"),
        "--workers",
        "0",
    ),
    _line(("--output",), "visualize"),
    _line(("--model",), "visualize", "--output", "FOLDER/p"),
    _pictures("nowhere", "nowhere", "synthetic_sem_seg_val"),
    _pictures("none", ".", "none"),
    _pictures("classification_predictions.json", ".", "synthetic_lt_val"),
    _pictures("--most-different", ".", "synthetic_sem_seg_val", "--most-different", "2"),
    _line(
        ("--num-images",),
        "browse",
        "--config-file",
        "quickstart/deeplabv3plus_lite0.yaml",
        "--output",
        "FOLDER/p",
        "--num-images",
        "0",
    ),
    _pictures("--num-images", ".", "synthetic_sem_seg_val", "--num-images", "0"),
    _line(
        ("nowhere.yaml",),
        "visualize",
        "--output",
        "FOLDER/p",
        "--model",
        "a",
        "nowhere.yaml",
        "x.pth",
    ),
    _line(("--weights",), "export", "--config-file", "x.yaml", "--output", "FOLDER/x.pth"),
    _line(
        ("nowhere.yaml",),
        "export",
        "--config-file",
        "nowhere.yaml",
        "--weights",
        "x",
        "--output",
        "FOLDER/x.pth",
    ),
    _line(
        ("nowhere.pth",),
        "export",
        "--config-file",
        "quickstart/deeplabv3plus_lite0_rr.yaml",
        "--weights",
        "nowhere.pth",
        "--output",
        "FOLDER/x.pth",
        program=True,
    ),
    _line(
        ("format",),
        "export",
        "--config-file",
        "x",
        "--weights",
        "x",
        "--output",
        "x",
        "--format",
        "onnx",
    ),
    _line(("OUTPUT",), "convert-weights", "x.pth"),
    _line(("nowhere.pth",), "convert-weights", "nowhere.pth", "FOLDER/x.pth", program=True),
    _line(("x.pkl",), "convert-weights", "x.pkl", "FOLDER/x.pth"),
    _line(
        ("--without-classifier",), "convert-weights", "x", "y", "--to-mmseg", "--without-classifier"
    ),
    Case("plot-calibration --batches 0", ("--batches",), _plot("--batches", "0")),
    Case("plot-calibration, no weights", ("nowhere.pth",), _plot("--weights", "nowhere.pth")),
    Case(
        "plot-calibration, another model",
        ("DisAlignRCNN",),
        lambda place: [
            *("plot-calibration", "--weights", "x", "--output", str(place.output)),
            *place.keys("pixels"),
        ],
    ),
    Case("cache-roi-features --epochs 0", ("epoch",), _cached("--epochs", "0")),
    Case("cache-roi-features --epochs -1", ("epoch",), _cached("--epochs", "-1")),
    Case("cache-roi-features --epochs 10^15", ("--epochs",), _cached("--epochs", "1" + "0" * 15)),
    Case("cache-roi-features, no weights", ("MODEL.WEIGHTS",), _cached(keys=("MODEL.WEIGHTS", ""))),
    Case(
        "cache-roi-features, weights do not exist",
        ("nowhere.pth",),
        _cached(keys=("MODEL.WEIGHTS", "nowhere.pth")),
    ),
    Case(
        "cache-roi-features into a folder with files",
        ("--output",),
        lambda place: (place.write("cache/x", "x"), _cached()(place))[1],
    ),
    Case(
        "cache-roi-features, a first stage",
        ("DisAlignRCNN",),
        lambda place: [
            *("cache-roi-features", "--output", str(place.folder / "cache")),
            *place.keys("boxes", "MODEL.WEIGHTS", str(place.stage.model("boxes"))),
        ],
    ),
    _line(("/dev/null",), "quickstart", "--output", "/dev/null/x"),
    _line(("/dev/null",), "disalign-quickstart", "--output", "/dev/null/x"),
    _line(("classifier",), "disalign-quickstart", "--classifier", "magic"),
    _line(("install-detectron2",), "install-detectron2", "--force"),
]
