# SPDX-License-Identifier: Apache-2.0
"""Packaged configs as a list to search: what each is, with published metrics and those of here."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longtail.config.tables import TABLES, Leaf, Row, Table, read_leaves, read_tables, rows_of

# The metrics that stand for a config, the first that it has.
MAIN = ("mIoU", "box AP", "average", "mask AP")


@dataclass(frozen=True)
class ConfigEntry:
    """A config that can be run.

    Attributes:
        config: its name for ``--config-file``.
        title: what it is: of the tables that print it the rows, otherwise its own title.
        published: metric and number as printed; "" for none.
        measured: metric and number of here; "" for none.
    """

    config: str
    title: str
    published: str
    measured: str


def config_entries(folder: Path = TABLES) -> list[ConfigEntry]:
    """All packaged configs, in the order of their folders.

    Args:
        folder: as for :func:`~longtail.config.tables.read_tables`.
    """
    leaves = read_leaves(folder)
    rows = rows_of(leaves, read_tables(folder))
    return [_entry(leaf, rows[config]) for config, leaf in leaves.items()]


def _entry(leaf: Leaf, rows: Sequence[tuple[Table, Row]]) -> ConfigEntry:
    printed = {key: value for _, row in reversed(rows) for key, value in row.metrics.items()}
    return ConfigEntry(
        config=leaf.config,
        title="; ".join(f"{table.title}: {row.label}" for table, row in rows) or leaf.title,
        published=_main(printed),
        measured=_main(leaf.measured),
    )


def _main(metrics: dict) -> str:
    name = next((name for name in (*MAIN, *metrics) if name in metrics), "")
    return f"{name} {metrics[name]}" if name else ""


def search(entries: Sequence[ConfigEntry], words: Sequence[str]) -> list[ConfigEntry]:
    """The configs whose name or title has words that begin with all of these, in any case.

    Raises:
        ValueError: there is none.
    """
    # Not within a word: rr is not in narrow.
    starts = {word: re.compile(rf"(?<![^\W_]){re.escape(word)}", re.IGNORECASE) for word in words}
    having = {
        word: {e.config for e in entries if start.search(f"{e.config} {e.title}")}
        for word, start in starts.items()
    }
    for word, configs in having.items():
        if not configs:
            raise ValueError(
                f"no config has {word!r} in its name or title; longtail configs lists the folders"
            )
    found = [e for e in entries if all(e.config in configs for configs in having.values())]
    if not found:
        raise ValueError(f"no config has all of {', '.join(words)}: leave one out")
    return found


def folders(entries: Sequence[ConfigEntry]) -> dict[str, int]:
    """The number of configs of each folder."""
    return dict(Counter(entry.config.split("/")[0] for entry in entries))
