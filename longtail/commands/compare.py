# SPDX-License-Identifier: Apache-2.0
r"""Compare finished runs on a test set: metrics, groups and classes, over seeds.

    longtail compare output/baseline output/mine
    longtail compare "baseline=output/baseline_*" "mine=output/mine_*"
    longtail compare output --format markdown --output comparison.md

Runs whose configs differ in nothing but the seed are one method, with mean and deviation. All
methods are compared with the first one; runs of the same seeds are paired.
"""

import argparse
from collections.abc import Sequence

from longtail.analysis.choices import FORMATS
from longtail.utils.command_line import add_method_arguments, check_output_file, command_parser
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("compare", __doc__)
    add_method_arguments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="form of the tables (default: text)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="file that the tables go to, instead of being printed"
    )
    return parser


def compare(options: argparse.Namespace) -> None:
    """Print the tables, or write them.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from longtail.analysis.compare import compare_methods
    from longtail.analysis.compare_tables import render
    from longtail.analysis.methods import find_methods

    if options.output:
        check_output_file(options.output)
    text = render(compare_methods(find_methods(options.runs), options.dataset), options.format)
    if not options.output:
        print(text, end="")
        return
    with atomic_write(options.output) as file:
        file.write(text)
    print(f"written: {options.output}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        compare(options)
