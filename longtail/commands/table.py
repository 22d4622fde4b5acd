# SPDX-License-Identifier: Apache-2.0
r"""Print a table of the papers beside your own runs: published, here, difference.

    longtail table                                       # all names
    longtail table rr-table3                             # as it is printed, with configs
    longtail table rr-table3 --runs output/mine more     # beside the runs below these folders
    longtail table camvid --format markdown --output camvid.md

Which row a run belongs to is found by its config: folders may have any name. The mean and the
deviation of a single run (n - 1) are over the seeds. Runs that count for no row are named below the
table, with the reason: they are not finished, their test set is another, or keys of their config
differ, those of the nearest row.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from longtail.analysis.paper_tables import fill_tables
from longtail.analysis.runs import Run, find_runs
from longtail.analysis.table_text import to_csv, to_markdown, to_text
from longtail.config.tables import Table, find_table, read_leaves, read_notes, read_tables
from longtail.utils.command_line import command_parser
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write

# Where the packaged configs put their runs.
OUTPUT = "output"


def overview(tables: Sequence[Table]) -> str:
    """List the tables: name, where it is printed, subject, number of rows and of their configs."""
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
    parser.add_argument(
        "--format", choices=("text", "markdown", "csv"), default="text", help="of the tables"
    )
    parser.add_argument("--output", metavar="FILE", help="write the tables here, instead")


def run_tables(tables: Sequence[Table], options: argparse.Namespace) -> None:
    """Do with some tables what the options of :func:`add_table_arguments` say: print them.

    Args:
        tables: one or more.
        options: the parsed command line.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    path = Path(options.output or "")
    # A device would be replaced by a file, too.
    if options.output and path.exists() and not path.is_file():
        raise ValueError(f"--output {path} is a folder, or no regular file: name a file")
    runs, leaves, notes = _find_runs(options.runs), read_leaves(), read_notes()
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


def _find_runs(folders: Sequence[str] | None) -> list[Run]:
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
        tables = read_tables()
        if options.name is None:
            print(overview(list(tables.values())))
        else:
            run_tables([find_table(tables, options.name)], options)
