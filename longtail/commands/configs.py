# SPDX-License-Identifier: Apache-2.0
"""List and search the packaged configs, with published metrics and those of here.

    longtail configs                    # their folders
    longtail configs ade20k upernet     # whose name or title has all words
    longtail configs lvisv1 cosine

A config's name is what --config-file takes; longtail info NAME says more about it.
"""

import argparse
from collections.abc import Sequence

from longtail.utils.command_line import command_parser
from longtail.utils.errors import ending_in_one_line

TITLE_WIDTH = 60


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("configs", __doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="all must be in name or title")
    return parser


def listing(words: Sequence[str]) -> str:
    """The configs that have all words, as text; without words their folders.

    Raises:
        ValueError: no config has these words.
    """
    from tabulate import tabulate

    from longtail.config.listing import config_entries, folders, search

    entries = config_entries()
    if not words:
        return tabulate(folders(entries).items(), headers=["folder", "configs"])
    rows = [[e.config, e.title, e.published, e.measured] for e in search(entries, words)]
    header = ["config", "what it is", "published", "measured here"]
    return tabulate(rows, header, maxcolwidths=[None, TITLE_WIDTH], disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        print(listing(options.words))
