# SPDX-License-Identifier: Apache-2.0
"""List the methods for data with a long tail: losses, samplers, post hoc, second stages.

    longtail methods              # all, with the config keys that choose them
    longtail methods pixels       # those of a task: images, pixels or boxes

docs/methods.md says which one when.
"""

import argparse
from collections.abc import Sequence

from longtail.utils.command_line import command_parser
from longtail.utils.errors import ending_in_one_line

TASKS = ("images", "pixels", "boxes")
HEADER = ("kind", "method", "config", "what it does")
WIDTHS = (None, None, 60, 60)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("methods", __doc__)
    parser.add_argument("task", nargs="?", choices=TASKS, help="only those for this task")
    return parser


def listing(task: str) -> str:
    """The methods for one of ``TASKS`` as text, by kind."""
    from tabulate import tabulate

    from longtail.engine.methods import all_methods

    rows = [[m.kind, m.name, m.settings, m.what] for m in all_methods() if m.task == task]
    return f"{task}\n\n{tabulate(rows, HEADER, maxcolwidths=WIDTHS)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        print("\n\n\n".join(map(listing, [options.task] if options.task else TASKS)))
