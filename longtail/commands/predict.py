# SPDX-License-Identifier: Apache-2.0
r"""Predict images of one's own with a trained model: label maps, COCO JSON or a table.

    longtail predict output/my_run photos/ --output predicted --overlays
    longtail predict output/my_run 'photos/**/*.jpg' clip.mp4 --output predicted --processes 4
    longtail predict CONFIG --weights model_final.pth photos/ --output predicted
    torchrun --nproc-per-node 2 -m longtail predict ...

RUN is the folder of a run, or a config with --weights. No labels are needed. Written are, by the
task of the model (docs/predict.md):

- semantic segmentation: labels/NAME.png, classes 0..K-1 with a palette of their colours,
- detection: detections.json, in COCO's format, with a score at each annotation,
- image classification: predictions.csv, the best classes with their probabilities,

and predictions.json, which says by what model. What is there already is skipped, so that the same
command continues what was ended; files are whole or absent. Images that cannot be read are listed
at the end, with exit code 1.
"""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from longtail.utils.command_line import (
    add_import_argument,
    check_output_folder,
    command_parser,
)
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from longtail.data.formats.sources import Source
    from longtail.engine.inference.prediction_files import Wanted
    from longtail.engine.inference.predictor import Predictor

# Images that cannot be read, of which the end of the output names so many.
SHOWN = 20


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("predict", __doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a run, or a config")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="folders, patterns, images or videos"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the predictions")
    parser.add_argument(
        "--weights", default="", metavar="FILE", help="other weights than the newest of the run"
    )
    parser.add_argument(
        "--dataset",
        default="",
        metavar="NAME",
        help="registered data set with the model's classes, for weights without their names",
    )
    add_import_argument(parser)
    parser.add_argument("--device", metavar="NAME", help="such as cpu or cuda:1")
    parser.add_argument(
        "--overlays", action="store_true", help="also draw the predictions: overlays/NAME.png"
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="also write probabilities, scores/NAME.npy: of each pixel's class (float16), or of "
        "all classes of an image (float32); detections have theirs",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.5,
        metavar="S",
        help="objects with lower scores are not drawn; the JSON has all (default: 0.5)",
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="classes of the table (default: 5)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="images read at a time; those of one size run together (default: 8)",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that share the work (default: 1)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="predict again what is there already"
    )
    return parser


def predict(options: argparse.Namespace) -> int:
    """Write the predictions, and say where they are.

    Args:
        options: what :func:`build_parser` parsed.

    Returns:
        The number of images that could not be read.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from detectron2.utils import comm

    from longtail.data.formats.sources import find_sources
    from longtail.engine.inference.predicting import ModelChoice, predict_all
    from longtail.engine.inference.prediction_files import Wanted, join
    from longtail.engine.inference.trained import trained_config
    from longtail.utils.distributed import from_main_process

    _check_options(options, comm.get_world_size())
    sources = find_sources(options.images)
    imports = tuple(options.imports)
    weights = trained_config(options.run, options.weights or None, imports).MODEL.WEIGHTS
    choice = ModelChoice(options.run, weights, options.device, options.dataset, imports)
    # Of several processes each has its own model, and this one's is only asked for its classes.
    model = choice.open("cpu" if options.processes > 1 else None)
    wanted = Wanted(
        *(options.output, model.kind, options.scores, options.overlays),
        *(options.min_score, options.top),
    )
    _check_scores(wanted)
    left = from_main_process(lambda: _begun(options, model, wanted, sources))
    sizes = {"batch_size": options.batch_size, "processes": options.processes}
    problems = predict_all(choice, model, wanted, left, **sizes)
    path = from_main_process(lambda: join(wanted, model.class_names, sources))
    if comm.is_main_process():
        print(f"{path}: {len(sources) - len(problems)} images")
        for line in problems[:SHOWN]:
            print(f"not read: {line}")
        if problems[SHOWN:]:
            print(f"... and {len(problems) - SHOWN} more")
    return len(problems)


def _begun(
    options: argparse.Namespace, model: "Predictor", wanted: "Wanted", sources: "list[Source]"
) -> "list[Source]":
    """Say in the folder what the predictions depend on; gives the images that are left."""
    from longtail.engine.inference.prediction_files import check_record

    check_record(options.output, _record(model, wanted), overwrite=options.overwrite)
    left = [s for s in sources if options.overwrite or not wanted.is_done(s)]
    if len(left) < len(sources):
        print(f"{len(sources) - len(left)} of {len(sources)} images are done already")
    return left


def _check_options(options: argparse.Namespace, world_size: int) -> None:
    check_output_folder(options.output)
    for name in ("batch_size", "processes", "top"):
        if getattr(options, name) < 1:
            given = getattr(options, name)
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, got {given}")
    if world_size > 1 and options.processes > 1:
        raise ValueError(
            f"--processes {options.processes}: {world_size} processes are started already, by "
            "torchrun or srun: leave it out"
        )
    if not 0 <= options.min_score <= 1:
        raise ValueError(f"--min-score must be in [0, 1], got {options.min_score}")


def _check_scores(wanted: "Wanted") -> None:
    from longtail.visualization.tasks import OBJECTS

    if wanted.scores and wanted.kind == OBJECTS:
        raise ValueError("--scores: detections have their scores in detections.json: leave it out")


def _record(model: "Predictor", wanted: "Wanted") -> dict[str, object]:
    """What the predictions depend on; neither where the weights are nor which device counts."""
    from longtail.utils.downloads import file_sha256

    cfg = model.cfg.clone()
    cfg.defrost()
    weights = cfg.MODEL.WEIGHTS
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = cfg.OUTPUT_DIR = ""
    return {
        "task": wanted.kind,
        # What is fetched by its address has that for its name.
        "weights": file_sha256(weights) if os.path.isfile(weights) else weights,
        "config": cfg.dump(),
        "class_names": model.class_names,
        "colors": [list(color) for color in model.colors],
        "top": wanted.top,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit code 1 if an image could not be read."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        from longtail.engine.launch import run_in_each_process

        failed = run_in_each_process(predict, options)
    if failed:
        raise SystemExit(1)
