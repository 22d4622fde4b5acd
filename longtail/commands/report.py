# SPDX-License-Identifier: Apache-2.0
r"""Write one HTML page about finished runs, which opens offline, on a phone and in print.

    longtail report output/baseline output/mine --output report.html
    longtail report "baseline=output/baseline_*" "mine=output/mine_*" --output report.html \
        --pictures pictures

Runs are grouped and compared as longtail compare does. The page shows metrics (beside the published
ones where a run is of a paper's row), groups, gain against frequency, confusion, training curves,
the configs' difference and the environment; of each run also the PNG files in its folder pictures,
and what longtail analyze and the projects' commands wrote into its folder figures.
"""

import argparse
from collections.abc import Sequence

from longtail.utils.command_line import add_method_arguments, check_output_file, command_parser
from longtail.utils.errors import ending_in_one_line


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("report", __doc__)
    add_method_arguments(parser)
    parser.add_argument(
        "--output",
        default="report.html",
        metavar="FILE",
        help="the page (default: report.html)",
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of PNG files to show, such as those of longtail visualize",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        from longtail.analysis.methods import find_methods
        from longtail.analysis.report import write_report

        check_output_file(options.output)
        write_report(
            find_methods(options.runs),
            options.output,
            dataset=options.dataset,
            pictures=options.pictures,
        )
        print(f"written: {options.output}")
