# SPDX-License-Identifier: Apache-2.0
"""The options of commands that run the rows of a table."""

import argparse
from pathlib import Path

from longtail.utils.command_line import add_import_argument

LAUNCHERS = ("local", "slurm")


def add_run_arguments(
    parser: argparse.ArgumentParser, *, seeds: int = 3, output: str | None = "output"
) -> None:
    """Add the options of a command that runs rows.

    Args:
        parser: of the command.
        seeds: how many by default.
        output: the default folder; None for a command that has another option for it.
    """
    group = parser.add_argument_group("running")
    if output is not None:
        group.add_argument(
            "--output",
            type=Path,
            default=Path(output),
            metavar="DIR",
            help=f"folder of the runs, DIR/CONFIG/seedN (default: {output})",
        )
    group.add_argument(
        "--seeds",
        type=parse_seeds,
        default=tuple(range(seeds)),
        metavar="N",
        help=f"N seeds, 0 to N-1, or a list such as 3,5 (default: {seeds})",
    )
    group.add_argument(
        "--num-gpus",
        type=int,
        metavar="N",
        help="GPUs of each training run, which then run one after the other; 0: one run a core "
        "(default: 1 if there is one)",
    )
    group.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="run here, or write array jobs and print the lines that submit them",
    )
    add_import_argument(group)
    group.add_argument(
        "--dry-run", action="store_true", help="print the commands in their order, run nothing"
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read ``3`` as seeds 0, 1, 2, and ``3,5`` as those two.

    Args:
        text: of the command line.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    seeds = tuple(numbers) if "," in text else tuple(range(*numbers[:1])) if numbers else ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(
            f"expected a number of seeds, such as 3, or different seeds, such as 3,5; got {text!r}"
        )
    return seeds
