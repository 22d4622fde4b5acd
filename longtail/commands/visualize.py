# SPDX-License-Identifier: Apache-2.0
r"""Picture predictions: image, ground truth and one or more predictions side by side.

Label maps, boxes and masks, or the best classes as bars, by the task of the data set. Of models on
images of a data set, on images of one's own, and of predictions that were saved before:

    longtail visualize --output pictures --num-images 8 \
        --model baseline CamVid/deeplabv3plus_lite0.yaml baseline.pth \
        --model longer CamVid/deeplabv3plus_lite0.yaml longer.pth
    longtail visualize --output pictures --model longer CONFIG WEIGHTS --images street.jpg
    longtail visualize --output pictures --dataset ade20k_sem_seg_val --predictions FCN DIR
    longtail visualize --output pictures --dataset lvis_v1_val --most-different 20 \
        --predictions before a/lvis_instances_results.json \
        --predictions after b/lvis_instances_results.json

Every image becomes OUTPUT/<name of the image>.png; OUTPUT/contact_sheet.png shows all of them
(docs/pictures.md). Ignored pixels are black.
"""

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.utils.command_line import (
    add_data_argument,
    add_import_argument,
    check_output_folder,
    command_parser,
)
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    import numpy as np
    from detectron2.config import CfgNode

    from longtail.engine.inference.predictor import Predictor
    from longtail.visualization.predictions import Record
    from longtail.visualization.saved import Drawn
    from longtail.visualization.tasks import Task


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("visualize", __doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "CONFIG", "WEIGHTS"),
        help="a column with the predictions of a model; may be repeated",
    )
    parser.add_argument(
        "--predictions",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "PATH"),
        help="a column, right of the models', from sem_seg_predictions.json, "
        "lvis_instances_results.json, coco_instances_results.json, "
        "classification_predictions.json, or a folder of 8-bit PNG label maps named as their "
        "images, classes 0..K-1; may be repeated",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set of images, classes and colours; by default the first one of DATASETS.TEST "
        "of the first model; with --images, the classes that the weights carry",
    )
    add_data_argument(parser)
    add_import_argument(parser)
    parser.add_argument(
        "--images", nargs="+", metavar="FILE", help="images of one's own, without ground truth"
    )
    number = parser.add_mutually_exclusive_group()
    number.add_argument(
        "--num-images",
        type=int,
        default=8,
        metavar="N",
        help="images of the data set, evenly spread over it (default: 8)",
    )
    number.add_argument(
        "--most-different",
        type=int,
        metavar="N",
        help="instead, the N images of the data set on which the columns differ most: share of "
        "pixels, number of detections without a partner (same class, IoU >= 0.5), or how sure "
        "they are of different classes; the rest of each picture is faded",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.5,
        metavar="S",
        help="detections with lower scores are left out (default: 0.5)",
    )
    return parser


def visualize(options: argparse.Namespace) -> None:
    """Write a picture of every chosen image.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, KeyError: bad input; the message says what to do.
    """
    from longtail.config import load_config
    from longtail.data.datasets.declared import register_data_files
    from longtail.data.statistics.counting import load_records
    from longtail.engine.inference.pictured import drawn
    from longtail.engine.inference.trained import model_kind
    from longtail.visualization.saved import check_saved, saved_predictor
    from longtail.visualization.tasks import OBJECTS, task_kind
    from longtail.visualization.writing import picture_names, write_pictures

    _check_options(options)
    register_data_files(options.data)
    configs = {
        name: load_config(config, imports=options.imports) for name, config, _ in options.model
    }
    own = _own_images(options.images)
    # A model's own classes are those of images of one's own: no data set may lend them others.
    by_model = bool(own and configs and not options.dataset)
    dataset = "" if by_model else options.dataset or _first_test_set(list(configs.values()))
    kind = model_kind(next(iter(configs.values()))) if by_model else task_kind(dataset)
    for name, path in options.predictions:
        check_saved(kind, name, path)
        if kind == OBJECTS and options.images:
            raise ValueError(
                "--images and --predictions: files of detections are for images of a data set; "
                "leave one of the two out"
            )
    records = own or load_records(dataset)
    if by_model:
        models, task = _models_with_their_classes(options, configs)
    else:
        models, task = _models_for(dataset, options, configs)
    predictors = {name: drawn(name, model, task) for name, model in models.items()}
    for name, path in options.predictions:
        predictors[name] = saved_predictor(task, name, path, records)
    if options.most_different:
        records = _most_different(records, predictors, task, options.most_different)
    elif not own:
        records = _spread(records, options.num_images)
    names = picture_names([record["file_name"] for record in records])
    highlight = options.most_different is not None
    pictures = (_picture(record, predictors, task, highlight) for record in records)
    write_pictures(options.output, zip(names, pictures, strict=True))


def _models_with_their_classes(
    options: argparse.Namespace, configs: Mapping[str, "CfgNode"]
) -> tuple[dict[str, "Predictor"], "Task"]:
    """Open the models, which have to know their classes, the same ones all."""
    from longtail.engine.inference.pictured import check_same_models, open_model

    models = {name: open_model(name, configs[name], weights) for name, _, weights in options.model}
    check_same_models(models)
    return models, next(iter(models.values())).task(options.min_score)


def _models_for(
    dataset: str, options: argparse.Namespace, configs: Mapping[str, "CfgNode"]
) -> tuple[dict[str, "Predictor"], "Task"]:
    """Open the models, which have to be for the data set."""
    from longtail.data.datasets.classes import class_names
    from longtail.engine.inference.pictured import check_model, open_model
    from longtail.visualization.tasks import SEM_SEG, build_task, task_kind

    if not class_names(dataset):
        key = "stuff_classes" if task_kind(dataset) == SEM_SEG else "thing_classes"
        raise ValueError(f"data set {dataset!r} does not have {key}: register it with its classes")
    task = build_task(dataset, options.min_score)
    for name, cfg in configs.items():
        check_model(name, cfg, task)
    return {
        name: open_model(name, configs[name], weights, dataset)
        for name, _, weights in options.model
    }, task


def _check_options(options: argparse.Namespace) -> None:
    names = [name for name, *_ in options.model + options.predictions]
    if not names or len(set(names)) != len(names):
        raise ValueError(
            "give one or more --model or --predictions, each with a name of its own, got the "
            f"names {names}"
        )
    check_output_folder(options.output)
    if options.num_images < 1:
        raise ValueError(f"--num-images must be 1 or more, got {options.num_images}")
    if not 0 <= options.min_score <= 1:
        raise ValueError(f"--min-score must be in [0, 1], got {options.min_score}")
    if options.most_different is None:
        return
    if options.most_different < 1:
        raise ValueError(f"--most-different must be 1 or more, got {options.most_different}")
    if len(names) < 2:
        raise ValueError("--most-different compares two or more --model or --predictions, got one")
    if options.images:
        raise ValueError("--most-different chooses images of a data set: leave --images out")


def _predictions(record: "Record", predictors: Mapping[str, "Drawn"]) -> dict[str, Any]:
    return {name: predict(record) for name, predict in predictors.items()}


def _picture(
    record: "Record", predictors: Mapping[str, "Drawn"], task: "Task", highlight: bool
) -> "np.ndarray":
    image, truth = task.read(record)
    predictions = _predictions(record, predictors)
    with _naming(record):
        return task.picture(image, truth, predictions, highlight=highlight)


def _difference(record: "Record", predictors: Mapping[str, "Drawn"], task: "Task") -> float:
    predictions = _predictions(record, predictors)
    with _naming(record):
        return task.difference(predictions, record)


@contextlib.contextmanager
def _naming(record: "Record") -> Iterator[None]:
    """Name the image in an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{record['file_name']}: {error}") from None


def _first_test_set(configs: list["CfgNode"]) -> str:
    if not configs or not configs[0].DATASETS.TEST:
        raise ValueError(
            "no data set whose classes and colours to use: give --dataset, or a --model whose "
            "config has DATASETS.TEST"
        )
    return configs[0].DATASETS.TEST[0]


def _own_images(files: Sequence[str] | None) -> list[dict[str, Any]]:
    """Records of the user's own images."""
    by_stem: dict[str, str] = {}
    for file in files or []:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"the image {file} does not exist")
        other = by_stem.setdefault(Path(file).stem, file)
        if other != file:
            raise ValueError(f"{other} and {file} would both become {Path(file).stem}.png")
    return [{"file_name": file} for file in by_stem.values()]


def _spread(records: Sequence["Record"], number: int) -> list["Record"]:
    """``number`` records (all if there are fewer), evenly from the first to the last."""
    import numpy as np

    last = len(records) - 1
    return [records[round(i)] for i in np.linspace(0, last, min(number, len(records)))]


def _most_different(
    records: Sequence["Record"],
    predictors: Mapping[str, "Drawn"],
    task: "Task",
    number: int,
) -> list["Record"]:
    """The records whose predictions differ most, those first; fewer if fewer differ."""
    import numpy as np
    from tqdm import tqdm

    differences = np.array(
        [
            _difference(record, predictors, task)
            for record in tqdm(records, "comparing predictions", unit="image")
        ]
    )
    differing = int(np.count_nonzero(differences))
    if not differing:
        raise ValueError(
            f"{', '.join(predictors)} predict the same on all {len(records)} images of "
            f"{task.dataset_name}: there is no difference to show"
        )
    order = np.argsort(-differences, kind="stable")[: min(number, differing)]
    print(f"{differing} of {len(records)} images differ, {task.measure}:")
    for index in order:
        print(f"{differences[index]:10.4g}  {records[index]['file_name']}")
    return [records[index] for index in order]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        visualize(options)
