# SPDX-License-Identifier: Apache-2.0
r"""Plot what DisAlign's second stage has learned: alpha, beta and sigma(x), by class frequency.

    longtail plot-calibration --config-file STAGE2.yaml --weights STAGE2/model_final.pth \
        --output pictures
    longtail plot-calibration ... --history

For detection, semantic segmentation and image classification, one row of panels for each
calibrated classifier (of a cascade, each stage of the box head): alpha and beta of every class
against its frequency in training, and the distribution of sigma(x) over the RoIs, pixels or images
of some training batches, by the frequency group of their class (the paper's supplement, Figure 6).
OUTPUT then has calibration.png, .svg and, with all values, .json. --history adds
calibration_history.*: alpha and beta of every class in the checkpoints beside --weights.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longtail.utils.command_line import (
    add_config_arguments,
    check_output_folder,
    command_parser,
)
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from disalign.analysis.calibrations import Task


def plot_calibration(options: argparse.Namespace) -> None:
    """Write the pictures and their values, and print tables.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, KeyError: bad input; the message says what to do.
    """
    from disalign.analysis.calibrations import (
        calibrated_classifiers,
        class_values,
        load_model,
        read_history,
        sigma_by_group,
        summary,
    )
    from disalign.analysis.figures import draw_calibrations, draw_history
    from longtail.analysis.study import Study
    from longtail.config import load_config
    from longtail.data.statistics.class_stats import get_class_stats

    if options.batches < 1:
        raise ValueError(f"--batches must be 1 or more, got {options.batches}")
    check_output_folder(options.output)
    cfg = load_config(options.config_file, options.opts, imports=options.imports)
    task = task_of(cfg, options.config_file)
    stats = get_class_stats(cfg.DATASETS.TRAIN)
    model = load_model(cfg, options.weights, stats.class_names)
    classifiers = list(calibrated_classifiers(model).values())
    groups = classifiers[0].class_groups
    history = read_history(model, options.weights) if options.history else None
    sigma = sigma_by_group(model, cfg, options.batches)
    switches = cfg.MODEL.DISALIGN
    learned = {
        "alpha": switches.MAGNITUDE,
        "beta": switches.MARGIN,
        "sigma": switches.CONFIDENCE,
    }
    stages = [
        {
            "classes": class_values(classifier.calibration, stats, groups, task.counted),
            "sigma": of_stage,
            "learned": learned,
        }
        for classifier, of_stage in zip(classifiers, sigma, strict=True)
    ]
    source = {"config": options.config_file, "weights": options.weights}
    summaries = [{**s, "sigma": {g: summary(v) for g, v in s["sigma"].items()}} for s in stages]
    values = {**source, "batches": options.batches, "stages": summaries}
    figure = draw_calibrations(stages, task)
    Study("calibration", values, table(stages, groups, task), figure).report(options.output)
    if history:
        values = {**source, "classes": stats.class_names, **history}
        text = f"\n{history_table(history, groups)}"
        figure = draw_history(history, groups)
        Study("calibration_history", values, text, figure).report(options.output)


def task_of(cfg: "CfgNode", config_file: str) -> "Task":
    """The task whose second stage a config is of.

    Args:
        cfg: a config.
        config_file: its name, for the message.

    Raises:
        ValueError: it is no second stage.
    """
    from disalign.analysis.calibrations import TASKS
    from longtail.config import get_value

    found = [task for task in TASKS if get_value(cfg, task.key) == task.value]
    if found:
        return found[0]
    keys = dict.fromkeys(task.key for task in TASKS)
    raise ValueError(
        f"{config_file} is not a second stage of DisAlign: "
        f"{', '.join(f'{key} is {get_value(cfg, key)}' for key in keys)}; expected one of "
        f"{', '.join(task.value for task in TASKS)}"
    )


def table(stages: list[dict[str, Any]], groups: dict[str, list[int]], task: "Task") -> str:
    """A line for every stage and group: means of alpha and beta, quantiles of sigma."""
    import numpy as np
    from tabulate import tabulate

    from disalign.analysis.calibrations import BACKGROUND, QUANTILES, START

    rows = []
    for number, stage in enumerate(stages):
        for group in (*groups, BACKGROUND):
            members = [row for row in stage["classes"] if row["group"] == group]
            values = stage["sigma"].get(group, ())
            if not members and not len(values):
                continue
            means = [np.mean([row[key] for row in members]) if members else None for key in START]
            quantiles = np.percentile(values, QUANTILES) if len(values) else [None] * len(QUANTILES)
            rows.append([number, group, len(members) or None, *means, len(values), *quantiles])
    headers = ["stage", "group", "classes", "alpha", "beta", task.samples]
    headers += [f"sigma {q} %" for q in QUANTILES]
    return tabulate(rows, headers=headers, floatfmt=".3f")


def history_table(history: dict[str, Any], groups: dict[str, list[int]]) -> str:
    """A line for every stage and checkpoint: means of alpha and beta of every group."""
    from tabulate import tabulate

    from disalign.analysis.calibrations import START

    named = {name: indices for name, indices in groups.items() if indices}
    rows = [
        [number, done, *(stage[key][at][named[name]].mean() for key in START for name in named)]
        for number, stage in enumerate(history["stages"])
        for at, done in enumerate(history["iterations"])
    ]
    headers = ["stage", "iterations", *(f"{key} {name}" for key in START for name in named)]
    return tabulate(rows, headers=headers, floatfmt=".3f")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("plot-calibration", __doc__)
    add_config_arguments(parser, "a second stage")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument(
        "--batches",
        type=int,
        default=20,
        metavar="N",
        help="training batches that sigma is taken from (default: 20)",
    )
    parser.add_argument(
        "--history",
        action="store_true",
        help="also alpha and beta in all checkpoints model_*.pth beside --weights",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        plot_calibration(options)
