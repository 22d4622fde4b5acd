# SPDX-License-Identifier: Apache-2.0
r"""Check for every class whether more accuracy is more IoU: Remark 1 of Region Rebalance.

    longtail analyze-conditions output/baseline output/pixel_rebalance
    longtail analyze-conditions output/baseline output/pixel_rebalance output/region_rebalance

A run is a folder, the OUTPUT_DIR of a training run or an evaluation of semantic segmentation. For
each class K, FP before and after, n_y (pixels of the test set) and both sides of
FP_r - (1 + K) FP <= K n_y; with two runs over the baseline also in how many classes one violates
the condition and the other does not. OUTPUT then has conditions.png, .svg and .json.
"""

import argparse
from collections.abc import Sequence

from longtail.utils.command_line import add_analysis_arguments, command_parser
from longtail.utils.errors import ending_in_one_line


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("analyze-conditions", __doc__)
    parser.add_argument("baseline", metavar="BASELINE", help="folder of the run before rebalancing")
    parser.add_argument("run", metavar="RUN", help="folder of a run after it")
    parser.add_argument("other", metavar="RUN", nargs="?", help="folder of another run after it")
    add_analysis_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        from longtail.analysis.runs import read_run
        from region_rebalance.conditions_study import study_conditions

        folders = [options.run, *([options.other] if options.other else [])]
        methods = [read_run(folder) for folder in folders]
        study = study_conditions(read_run(options.baseline), methods, options.dataset)
        study.report(options.output)
