# SPDX-License-Identifier: Apache-2.0
r"""Picture predictions: image, ground truth and one or more predictions side by side.

Models on images of a data set, on images of one's own, and predictions that were saved before:

    longtail visualize --output pictures --num-images 8 \
        --model baseline CamVid/deeplabv3plus_lite0.yaml baseline.pth \
        --model longer CamVid/deeplabv3plus_lite0.yaml longer.pth
    longtail visualize --output pictures --model longer CONFIG WEIGHTS --images street.jpg
    longtail visualize --output pictures --dataset ade20k_sem_seg_val --predictions FCN DIR

Every image becomes OUTPUT/<name of the image>.png. Ignored pixels are black.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from longtail.config import deployed_config, load_config
from longtail.data.datasets.classes import check_same_order, class_names
from longtail.data.datasets.files import files_by_stem
from longtail.data.datasets.register import class_colors
from longtail.data.formats.images import read_image, read_label_map, read_pair
from longtail.data.mappers.sem_seg import SemSegDatasetMapper
from longtail.data.statistics.counting import class_metadata, load_source
from longtail.engine import Trainer
from longtail.engine.checkpoint import CLASS_NAMES, CompleteCheckpointer
from longtail.engine.inference.build import build_inference
from longtail.evaluation.sem_seg.metrics import as_class_map
from longtail.utils.command_line import command_parser
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write
from longtail.visualization.comparison import comparison

# From the path of an image to its label map (H, W), values 0..K-1 and the ignore label.
Predictor = Callable[[str], np.ndarray]


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
        metavar=("NAME", "DIR"),
        help="a column, right of the models', from a folder of 8-bit PNG label maps named as "
        "their images, classes 0..K-1; may be repeated",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set of images, classes and colours; by default the first one of DATASETS.TEST "
        "of the first model",
    )
    parser.add_argument(
        "--images", nargs="+", metavar="FILE", help="images of one's own, without ground truth"
    )
    parser.add_argument(
        "--num-images",
        type=int,
        default=8,
        metavar="N",
        help="images of the data set, evenly spread over it (default: 8)",
    )
    return parser


def visualize(options: argparse.Namespace) -> None:
    """Write a picture of every chosen image.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, KeyError: bad input; the message says what to do.
    """
    names = [name for name, *_ in options.model + options.predictions]
    if not names or len(set(names)) != len(names):
        raise ValueError(
            "give one or more --model or --predictions, each with a name of its own, got the "
            f"names {names}"
        )
    if os.path.exists(options.output) and not os.path.isdir(options.output):
        raise ValueError(f"--output {options.output} is a file: name a folder")
    configs = [load_config(config) for _, config, _ in options.model]
    dataset = options.dataset or _first_test_set(configs)
    metadata = class_metadata(dataset)
    classes = metadata.get("stuff_classes", None)
    if not classes:
        raise ValueError(
            f"data set {dataset!r} does not have stuff_classes: name one for segmentation"
        )
    for (name, *_), cfg in zip(options.model, configs, strict=True):
        _check_classes(name, cfg, dataset, len(classes))
    records = _own_images(options.images) or _of_dataset(dataset, options.num_images)
    predictors: dict[str, Predictor] = {}
    for (name, _, weights), cfg in zip(options.model, configs, strict=True):
        predictors[name] = _model_predictor(name, cfg, weights, dataset)
    for name, folder in options.predictions:
        predictors[name] = _folder_predictor(name, folder)
    for record in records:
        picture = _picture(record, predictors, classes, metadata)
        path = os.path.join(options.output, f"{Path(record['file_name']).stem}.png")
        with atomic_write(path, "wb") as file:
            Image.fromarray(picture).save(file, format="PNG")
        print(path)


def _picture(
    record: dict[str, Any], predictors: dict[str, Predictor], classes: list[str], metadata: Any
) -> np.ndarray:
    image_file, label_file = record["file_name"], record.get("sem_seg_file_name")
    if label_file is None:
        image, target = read_image(image_file, "RGB"), None
    else:
        image, target = read_pair(image_file, label_file, "RGB", "prepare the data set again")
    predictions = {name: predict(image_file) for name, predict in predictors.items()}
    colors = metadata.get("stuff_colors", None) or class_colors(len(classes))
    ignore_label = metadata.get("ignore_label", 255)
    try:
        return comparison(image, target, predictions, classes, colors, ignore_label)
    except ValueError as error:
        raise ValueError(f"{image_file}: {error}") from None


def _first_test_set(configs: list[CfgNode]) -> str:
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


def _of_dataset(dataset: str, number: int) -> list[dict[str, Any]]:
    """``number`` records (all if there are fewer), evenly from the first to the last."""
    if number < 1:
        raise ValueError(f"--num-images must be 1 or more, got {number}")
    source = load_source(dataset)
    if source.label_files is None:
        raise ValueError(
            f"data set {dataset!r} does not have label maps: name one for segmentation"
        )
    total = len(source.image_files)
    chosen = (round(i) for i in np.linspace(0, total - 1, min(number, total)))
    return [
        {"file_name": source.image_files[i], "sem_seg_file_name": source.label_files[i]}
        for i in chosen
    ]


def _check_classes(name: str, cfg: CfgNode, dataset: str, num_classes: int) -> None:
    predicted = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if predicted != num_classes:
        raise ValueError(
            f"model {name!r} has {predicted} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but "
            f"{dataset} has {num_classes}: name the data set it was trained for (--dataset), and "
            "picture models for other data sets on their own"
        )


def _model_predictor(name: str, cfg: CfgNode, weights: str, dataset: str) -> Predictor:
    cfg = deployed_config(cfg)
    model = Trainer.build_model(cfg).eval()
    try:
        names = CompleteCheckpointer(model).load(weights).get(CLASS_NAMES)
        if names:
            remedy = "name the data set that the weights were trained for (--dataset)"
            check_same_order(names, class_names(dataset), weights, dataset, remedy)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"model {name!r}: {error}") from None
    segmentor = build_inference(cfg, model, class_maps=True)
    mapper = SemSegDatasetMapper(cfg, is_train=False)

    @torch.no_grad()
    def predict(image_file: str) -> np.ndarray:
        output = segmentor([mapper({"file_name": image_file})])[0]
        return as_class_map(output["sem_seg"], f"model {name!r}: {image_file}").cpu().numpy()

    return predict


def _folder_predictor(name: str, folder: str) -> Predictor:
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"--predictions {name}: the folder {folder} does not exist")
    files = files_by_stem(folder, (".png",))

    def predict(image_file: str) -> np.ndarray:
        stem = Path(image_file).stem
        if stem not in files:
            raise FileNotFoundError(
                f"--predictions {name}: {folder} does not have {stem}.png for {image_file}"
            )
        return read_label_map(files[stem])

    return predict


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        visualize(options)
