# SPDX-License-Identifier: Apache-2.0
r"""Print a table of the papers beside your own runs: published, here, difference.

    longtail table                                       # all names
    longtail table rr-table3                             # as it is printed, with configs
    longtail table rr-table3 --runs output/mine more     # beside the runs below these folders
    longtail table camvid --format markdown --output camvid.md
    longtail table rr-table3 --run --num-gpus 8 --seeds 3    # train and evaluate what is missing
    longtail table rr-table3 --run --launcher slurm          # write it as array jobs

Which row a run belongs to is found by its config: folders may have any name. The mean and the
deviation of a single run (n - 1) are over the seeds. Runs that count for no row are named below the
table, with the reason: they are not finished, their test set is another, or keys of their config
differ, those of the nearest row.

With --run, rows that start from the same first stage share its run, what is interrupted continues
with the same command, and nothing that is finished is run again (docs/tables.md).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.analysis.choices import FORMATS
from longtail.jobs.arguments import add_run_arguments
from longtail.utils.command_line import check_output_file, command_parser, run_command
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write

if TYPE_CHECKING:
    from longtail.analysis.runs import Run
    from longtail.config.tables import Table

# Where the packaged configs put their runs.
OUTPUT = "output"


def overview(tables: Sequence["Table"]) -> str:
    """List the tables: name, where it is printed, subject, number of rows and of their configs."""
    from tabulate import tabulate

    rows = [
        [
            table.short,
            f"{table.paper}, {table.number}" if table.paper else "in neither paper",
            table.subject,
            len(table.rows),
            len({row.config for row in table.rows} - {""}) or "none",
        ]
        for table in tables
    ]
    return tabulate(rows, ["name", "printed", "subject", "rows", "configs"], disable_numparse=True)


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all programs have that print tables."""
    parser.add_argument(
        "--runs",
        nargs="+",
        metavar="FOLDER",
        help=f"folders of finished runs, or above them (default: {OUTPUT}, if it is there)",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the tables")
    parser.add_argument("--output", metavar="FILE", help="write the tables here, instead")
    parser.add_argument(
        "--run",
        type=Path,
        nargs="?",
        const=Path(OUTPUT),
        metavar="DIR",
        help=f"run what is missing, in DIR/CONFIG/seedN (default: {OUTPUT}), then print",
    )
    add_run_arguments(parser, output=None)


def run_tables(tables: Sequence["Table"], options: argparse.Namespace) -> None:
    """Do with some tables what the options of :func:`add_table_arguments` say.

    Args:
        tables: one or more.
        options: the parsed command line.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from longtail.analysis.paper_tables import fill_tables
    from longtail.analysis.table_text import to_csv, to_markdown, to_text
    from longtail.config.tables import read_leaves, read_notes

    if options.output:
        check_output_file(options.output)
    folders = options.runs
    if options.run is not None:
        if not _train(tables, options):
            return
        folders = [*(folders or ()), options.run]
    runs, leaves, notes = _find_runs(folders), read_leaves(), read_notes()
    filled = fill_tables(tables, leaves, runs)
    if options.format == "csv":
        text = to_csv(filled)
        print(*filled.remarks, sep="\n", end="\n" * bool(filled.remarks), file=sys.stderr)
    else:
        text = (to_text if options.format == "text" else to_markdown)(filled, notes)
    if not options.output:
        print(text, end="")
        return
    with atomic_write(options.output) as file:
        file.write(text)
    print(f"written: {options.output}")


def _train(tables: Sequence["Table"], options: argparse.Namespace) -> bool:
    """Run what is missing of the rows; False if it was only listed or written as array jobs."""
    from longtail.jobs.plan import Row
    from longtail.jobs.run import run_rows

    rows = [Row(row.config) for table in tables for row in table.rows if row.config]
    if not rows:
        command = tables[0].command
        raise ValueError(f"--run: {tables[0].short} is not of runs, see: {command}")
    drawn = {table.data for table in tables} - {""}
    # Single-scale metrics are the same with it.
    several = any("(m.s.)" in metric for table in tables for metric in table.metrics)

    def datasets(seed: int) -> Path:
        return options.run.resolve() / "datasets" / f"seed{seed}"

    if not options.dry_run:
        for command in drawn:
            for seed in options.seeds:
                name, *arguments = command.format(seed=seed).split()
                environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets(seed))}
                run_command(name, arguments, environment)
    _, runs = run_rows(
        rows,
        options,
        output=options.run,
        options=("TEST.AUG.ENABLED", "True") if several else (),
        datasets=datasets if drawn else None,
    )
    return bool(runs)


def _find_runs(folders: Sequence[str] | None) -> list["Run"]:
    from longtail.analysis.runs import find_runs

    if folders:
        return find_runs(folders)
    # Its runs may have no evaluation yet.
    found = Path(OUTPUT).is_dir() and any(Path(OUTPUT).rglob("inference*/*/*_evaluation.json"))
    return find_runs([OUTPUT]) if found else []


def build_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = command_parser("table", __doc__)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="of a table; without it all are listed"
    )
    add_table_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        from longtail.config.tables import find_table, read_tables

        tables = read_tables()
        if options.name is None:
            print(overview(list(tables.values())))
        else:
            run_tables([find_table(tables, options.name)], options)
