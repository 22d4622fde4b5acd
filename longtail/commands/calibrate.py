# SPDX-License-Identifier: Apache-2.0
r"""Fit scores to the probability to be right, by saved predictions of validation images.

    longtail calibrate --dataset iotkits_lt_held_out \
        --predictions output/held_out/lvis_instances_results.json --output calibration
    longtail train --eval-only --config-file CONFIG MODEL.WEIGHTS model_final.pth \
        MODEL.POST_HOC.METHOD score_calibration MODEL.POST_HOC.FILE calibration/platt.json
    longtail evaluate-predictions --dataset iotkits_lt_val --predictions results.json \
        --calibration calibration/platt.json --output evaluated

All methods are fitted in one pass over the file: one temperature of all classes; Platt's, beta and
isotonic calibration of each class. The table is of two-fold cross-fitting: half of the images is
fitted, the other half measured, and the other way round; the files are fitted to all of them. A
calibration is never applied to the data set that it was fitted to.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.utils.command_line import (
    add_data_argument,
    add_import_argument,
    check_output_folder,
    command_parser,
)
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    import numpy as np

    from longtail.evaluation.judged import Judged

# longtail.evaluation.score_maps has them, too.
METHODS = ("temperature", "platt", "beta", "isotonic")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("calibrate", __doc__)
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help="registered validation set, not the one that will be reported",
    )
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help="detections in LVIS's or COCO's results format, or classification_predictions.json",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of METHOD.json")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all"
    )
    add_data_argument(parser)
    add_import_argument(parser)
    return parser


def calibrate(options: argparse.Namespace) -> None:
    """Fit, write the files, and print the table.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from tabulate import tabulate

    from longtail.config import load_config
    from longtail.data.datasets.declared import register_data_files
    from longtail.evaluation.calibration_file import Calibration
    from longtail.evaluation.judged import judge_saved
    from longtail.evaluation.score_maps import fit_score_maps

    check_output_folder(options.output)
    register_data_files(options.data)
    load_config("", imports=options.imports)
    judged = judge_saved(options.dataset, options.predictions)
    names = judged.class_names
    rows = [["as they are", *errors(judged, judged.scores)]]
    columns = judged.classes, judged.scores, judged.hits
    for method in options.methods:
        maps = fit_score_maps(method, *columns, len(names))
        rows.append([method, *errors(judged, cross_fitted(method, judged))])
        found = Calibration(method, options.dataset, names, maps)
        found.write(Path(options.output) / f"{method}.json")
    print(f"{len(judged):,} predictions of {options.dataset}, {judged.hits.mean():.1%} right\n")
    headers = ["two-fold cross-fitted, in percent", "ECE", "classwise", "Brier"]
    print(tabulate(rows, headers=headers, floatfmt=".2f"))
    print(f"\nwritten: {', '.join(f'{options.output}/{name}.json' for name in options.methods)}")


def cross_fitted(method: str, judged: "Judged") -> "np.ndarray":
    """Scores by maps that have not seen their image.

    Args:
        method: of :data:`METHODS`.
        judged: N predictions.

    Returns:
        (N,) float64.

    Raises:
        ValueError: half of the images has no right, or no wrong prediction.
    """
    import numpy as np

    from longtail.evaluation.score_maps import apply_score_maps, fit_score_maps

    images = np.unique(judged.images)
    # Any order but that of the file, which may be one of classes.
    first = np.random.default_rng(0).permutation(images)[: len(images) // 2]
    half = np.isin(judged.images, first)
    mapped = np.empty(len(judged))
    for measured in (half, ~half):
        fit = judged[~measured]
        maps = fit_score_maps(method, fit.classes, fit.scores, fit.hits, len(judged.class_names))
        mapped[measured] = apply_score_maps(maps, judged.classes[measured], judged.scores[measured])
    return mapped


def errors(judged: "Judged", scores: "np.ndarray") -> list[float]:
    """ECE, the mean of the classes' own, and the Brier score, in percent.

    Args:
        judged: N predictions.
        scores: (N,) in place of theirs.
    """
    from longtail.evaluation.calibration import brier, class_errors, reliability
    from longtail.evaluation.lvis.metrics import mean

    of_classes = class_errors(judged.classes, scores, judged.hits, len(judged.class_names))
    found = (reliability(scores, judged.hits).error, mean(of_classes), brier(scores, judged.hits))
    return [100 * value for value in found]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        calibrate(options)
