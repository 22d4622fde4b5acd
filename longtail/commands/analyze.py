# SPDX-License-Identifier: Apache-2.0
r"""Analyse finished runs class by class: gain, correlation, confusion, calibration, bounds.

    longtail analyze gain output/baseline output/mine --sort-by regions
    longtail analyze correlation output/baseline
    longtail analyze correlation --published
    longtail analyze confusion output/baseline
    longtail analyze calibration output/baseline
    longtail analyze bound output/R_50 output/R_50_bound output/R_50_crt
    longtail analyze frequencies ade20k_sem_seg_train coco_stuff_164k_sem_seg_train
    longtail analyze iou output/baseline

A run is a folder, the OUTPUT_DIR of a training run or an evaluation. Each analysis prints a table
and writes NAME.png, NAME.svg and NAME.json, with all values, into --output.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from longtail.analysis.choices import FREQUENCIES
from longtail.utils.command_line import add_analysis_arguments, command_parser
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from longtail.analysis.study import Study


def gain(options: argparse.Namespace) -> "Study":
    """Per-class difference of two runs."""
    from longtail.analysis.runs import read_run
    from longtail.analysis.studies.gain import study_gain

    runs = read_run(options.baseline), read_run(options.run)
    return study_gain(*runs, options.sort_by or "", options.dataset)


def correlation(options: argparse.Namespace) -> "Study":
    """Correlation of per-class metrics with the frequency of classes."""
    from longtail.analysis.published import read_class_results
    from longtail.analysis.runs import read_run
    from longtail.analysis.studies.correlation import study_correlation, study_published
    from longtail.data.statistics.class_stats import get_class_stats

    if options.published == bool(options.runs):
        raise ValueError("name the folders of one or more runs, or --published in their place")
    if not options.published:
        return study_correlation([read_run(run) for run in options.runs], options.dataset)
    [results] = read_class_results()
    print(f"{results.subject}\n{results.source}\n")
    return study_published(results, get_class_stats(results.trained_on))


def confusion(options: argparse.Namespace) -> "Study":
    """The most confused pairs of classes, and groups."""
    from longtail.analysis.runs import read_run
    from longtail.analysis.studies.confusion import study_confusion

    return study_confusion(read_run(options.run), options.pairs, options.dataset)


def calibration(options: argparse.Namespace) -> "Study":
    """Reliability diagrams and calibration errors of groups of classes."""
    from longtail.analysis.runs import read_run
    from longtail.analysis.studies.calibration import study_calibration

    return study_calibration(read_run(options.run), options.dataset)


def bound(options: argparse.Namespace) -> "Study":
    """A baseline, its empirical bound, and methods."""
    from longtail.analysis.runs import read_run
    from longtail.analysis.studies.bound import study_bound

    methods = [read_run(run) for run in options.methods]
    runs = read_run(options.baseline), read_run(options.bound)
    return study_bound(*runs, methods, options.dataset)


def frequencies(options: argparse.Namespace) -> "Study":
    """Histograms and imbalance factors of data sets."""
    from longtail.analysis.studies.frequencies import study_frequencies
    from longtail.data.statistics.class_stats import get_class_stats

    return study_frequencies({name: get_class_stats(name) for name in options.datasets})


def iou(options: argparse.Namespace) -> "Study":
    """IoU against accuracy for constant FP/TP."""
    from longtail.analysis.runs import read_run
    from longtail.analysis.studies.iou import study_iou

    return study_iou([read_run(run) for run in options.runs], options.dataset)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("analyze", __doc__)
    analyses = parser.add_subparsers(
        dest="analysis", required=True, metavar="ANALYSIS", help="one of these"
    )

    def add(study: Callable[[argparse.Namespace], "Study"], what: str) -> argparse.ArgumentParser:
        name = study.__name__
        added = analyses.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        added.set_defaults(study=study)
        return added

    added = add(gain, "per-class gain of a run over a baseline, sorted by frequency")
    added.add_argument("baseline", metavar="BASELINE", help="folder of a run")
    added.add_argument("run", metavar="RUN", help="folder of the run whose gain it is")
    added.add_argument(
        "--sort-by",
        choices=FREQUENCIES,
        help="training counts that sort the classes; a region is a class in an image (default: "
        "pixels, where they are known)",
    )
    add_analysis_arguments(added)
    added = add(correlation, "Pearson's and Spearman's coefficient of metrics and frequency")
    added.add_argument("runs", nargs="*", metavar="RUN", help="folder of a run")
    added.add_argument(
        "--published",
        action="store_true",
        help="published per-class results of FCN on ADE20K in place of runs",
    )
    add_analysis_arguments(added)
    added = add(confusion, "the classes that are confused most, and head against tail")
    added.add_argument("run", metavar="RUN", help="folder of a run")
    added.add_argument(
        "--pairs", type=int, default=20, metavar="N", help="pairs that are listed (default: 20)"
    )
    add_analysis_arguments(added)
    added = add(calibration, "scores against how often they are right, for groups of classes")
    added.add_argument("run", metavar="RUN", help="folder of a run with saved predictions")
    add_analysis_arguments(added)
    added = add(bound, "a baseline and methods against the classifier retrained on balanced data")
    added.add_argument("baseline", metavar="BASELINE", help="folder of the long-tailed run")
    added.add_argument("bound", metavar="BOUND", help="folder of its *_bound run")
    added.add_argument("methods", nargs="*", metavar="RUN", help="folder of a further run")
    add_analysis_arguments(added)
    added = add(frequencies, "how unbalanced data sets are, in pixels, regions and instances")
    added.add_argument("datasets", nargs="+", metavar="DATASET", help="a registered name")
    add_analysis_arguments(added, of_runs=False)
    added = add(iou, "IoU against accuracy for constant FP/TP, with the classes of runs")
    added.add_argument("runs", nargs="*", metavar="RUN", help="folder of a run; none: curves alone")
    add_analysis_arguments(added)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        options.study(options).report(options.output)
