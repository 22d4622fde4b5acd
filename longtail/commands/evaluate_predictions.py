# SPDX-License-Identifier: Apache-2.0
r"""Evaluate predictions that were saved, by whatever program, without a model.

    longtail evaluate-predictions --dataset lvis_v1_val --output evaluated \
        --predictions results.json --modes standard fixed pool
    longtail evaluate-predictions --dataset ade20k_sem_seg_val --output evaluated \
        --predictions label_maps/
    longtail evaluate-predictions --config-file CONFIG --output evaluated --predictions results.json

Detections are a list in LVIS's or COCO's results format, with the category ids and image ids of the
data set. Label maps are 8-bit PNGs with classes 0..K-1, named as their images, or
sem_seg_predictions.json. The metrics and reports are those of an evaluation of a model. Groups of
classes that the data set does not know are those of DATASETS.TRAIN, which a config or a pair of key
and value names.
"""

import argparse
from collections.abc import Sequence

from longtail.utils.command_line import (
    add_data_argument,
    add_import_argument,
    check_output_folder,
    command_parser,
)
from longtail.utils.errors import ending_in_one_line

# Of LVIS; longtail.evaluation.lvis.precision has them, too.
MODES = ("standard", "fixed", "pool")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("evaluate-predictions", __doc__)
    parser.add_argument(
        "--predictions", required=True, metavar="PATH", help="a results file, or a folder"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the reports")
    parser.add_argument(
        "--dataset",
        default="",
        metavar="NAME",
        help="registered data set (default: the first one of DATASETS.TEST of the config)",
    )
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="config that names data sets and TEST"
    )
    add_data_argument(parser)
    add_import_argument(parser)
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        help="of LVIS: AP, AP_fixed, AP_pool (default: TEST.LVIS.MODES, standard)",
    )
    parser.add_argument(
        "--calibration",
        default="",
        metavar="FILE",
        help="map the scores of detections by a file of longtail calibrate",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="replaced config values")
    return parser


def evaluate_predictions(options: argparse.Namespace) -> None:
    """Write the reports, and print the metrics.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from detectron2.utils.logger import setup_logger

    from longtail.config import load_config
    from longtail.data.datasets.declared import register_data_files
    from longtail.evaluation.without_model import evaluate_saved

    check_output_folder(options.output)
    register_data_files(options.data)
    cfg = load_config(options.config_file, options.opts, imports=options.imports)
    if options.modes:
        cfg.TEST.LVIS.MODES = list(options.modes)
    cfg.freeze()
    dataset = options.dataset or next(iter(cfg.DATASETS.TEST), "")
    if not dataset:
        raise ValueError("no data set: give --dataset, or a --config-file with DATASETS.TEST")
    for name in ("longtail", "detectron2"):
        setup_logger(name=name)
    paths = options.predictions, options.output, options.calibration
    results = evaluate_saved(cfg, dataset, *paths)
    for task, metrics in results.items():
        # Those of single classes are in the reports.
        shown = {key: value for key, value in metrics.items() if "-" not in key}
        print(task, *(f"{key} {value:.3f}" for key, value in shown.items()), sep="  ")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_intermixed_args(arguments)
    with ending_in_one_line(options.output):
        evaluate_predictions(options)
