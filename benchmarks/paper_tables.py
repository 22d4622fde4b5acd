# SPDX-License-Identifier: Apache-2.0
"""The papers' tables on a data set, all at once: what ade20k.py, lvis.py and others share."""

import argparse

from longtail.commands.table import add_table_arguments, run_tables
from longtail.config.tables import Table, read_tables
from longtail.utils.errors import ending_in_one_line


def tables_on(*folders: str) -> list[Table]:
    """The papers' tables whose rows have configs in some folders of ``configs/``.

    Args:
        folders: of a data set.

    Raises:
        ValueError: there is none.
    """
    found = [
        table
        for table in read_tables().values()
        if table.paper and any(row.config.partition("/")[0] in folders for row in table.rows)
    ]
    if not found:
        raise ValueError(f"no table of the papers has a config in {', '.join(folders)}")
    return found


def main(doc: str, *folders: str) -> None:
    """Run the command line: as ``longtail table`` does with one table, all of a data set.

    Args:
        doc: docstring of the script.
        folders: of ``configs/``.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_table_arguments(parser)
    options = parser.parse_args()
    with ending_in_one_line():
        run_tables(tables_on(*folders), options)
