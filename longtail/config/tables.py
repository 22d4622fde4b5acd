# SPDX-License-Identifier: Apache-2.0
"""The papers' tables as data: what each row prints, which config runs it, what it gave here.

``configs/tables`` holds one CSV file a printed table, one line a training run of it; ``tables.csv``
lists them, and tables of ours, of configs in neither paper. ``leaves.csv`` lists every config that
can be run, ``notes.csv`` what its header says besides, ``measured_*.csv`` what was measured here.
All accuracies, IoU and AP are in percent.
"""

import csv
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

from longtail.config.loading import CONFIGS

TABLES = CONFIGS / "tables"


@dataclass(frozen=True)
class Row:
    """One training run of a printed table.

    Attributes:
        label: the cells that name it, as printed.
        config: the config that runs it, a path below ``configs/``; "" for others' methods, which
            have none, and for what is not a run.
        metrics: the printed numbers with their digits, by metric, in the table's order. Empty
            where only a plot shows them.
        dataset: the registered training set whose class statistics the numbers are; "" for runs.
    """

    label: str
    config: str
    metrics: dict[str, Decimal]
    dataset: str = ""


@dataclass(frozen=True)
class Table:
    """A printed table or figure.

    Attributes:
        name: the name of its file, without ending.
        paper: who printed it; "" for a table of ours.
        number: such as ``Table 17``; "" for a table of ours.
        subject: what all its rows share, such as the data set.
        short: its name on the command line.
        command: what gives the numbers of a table that is not one of runs; "" for runs.
        data: the arguments of ``longtail`` that draw its data set anew for each ``{seed}``; "" for
            a data set that is there.
        metrics: names of its columns of numbers.
        rows: its lines, in the printed order.
    """

    name: str
    paper: str
    number: str
    subject: str
    short: str
    command: str
    data: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Paper, number and subject in a line."""
        return f"{self.paper}, {self.number} ({self.subject})" if self.paper else self.subject


@dataclass(frozen=True)
class Measurement:
    """A measured number: the mean over seeds, and their deviation if there were several."""

    mean: Decimal
    deviation: Decimal | None

    def __str__(self) -> str:
        """Format as ``mean`` or ``mean ± deviation``."""
        return f"{self.mean}" if self.deviation is None else f"{self.mean} ± {self.deviation}"


@dataclass(frozen=True)
class Leaf:
    """A config that can be run.

    Attributes:
        config: its path below ``configs/``.
        bases: the configs that it derives from, relative to its own folder.
        method: what it adds to them, "" for a plain baseline.
        notes: names of notes, see :func:`read_notes`.
        title: what it is, of configs in no table.
        measured: what it gave here, by metric.
        source: the file of this repository, or the command, that ``measured`` comes from.
    """

    config: str
    bases: tuple[str, ...]
    method: str
    notes: tuple[str, ...]
    title: str
    measured: dict[str, Measurement] = field(default_factory=dict)
    source: str = ""


def read_tables(folder: Path = TABLES) -> dict[str, Table]:
    """Read all tables.

    Args:
        folder: with ``tables.csv`` and the files that it names.

    Returns:
        The tables by name, in the order of the papers.

    Raises:
        ValueError: a file is not of the form that this module describes.
    """
    tables = {}
    columns = ("table", "paper", "number", "subject", "short", "command", "data")
    for _, line in _lines(folder / "tables.csv", columns):
        name = line.pop("table")
        rows, metrics = [], ()
        for place, cells in _lines(folder / f"{name}.csv", ("row", "config")):
            label, config, dataset = (cells.pop(key, "") for key in ("row", "config", "dataset"))
            metrics = tuple(cells)
            rows.append(Row(label, config, _numbers(cells, place), dataset))
        tables[name] = Table(name, metrics=metrics, rows=tuple(rows), **line)
    return tables


def find_table(tables: dict[str, Table], short: str) -> Table:
    """Find a table by its name on the command line.

    Args:
        tables: of :func:`read_tables`.
        short: the name.

    Raises:
        ValueError: there is none; the message proposes near names.
    """
    named = {table.short: table for table in tables.values()}
    if short not in named:
        near = difflib.get_close_matches(short, named, n=3, cutoff=0.5)
        hint = f"near names: {', '.join(near)}; " if near else ""
        raise ValueError(f"no table {short!r}; {hint}longtail table lists all")
    return named[short]


def read_leaves(folder: Path = TABLES) -> dict[str, Leaf]:
    """Read all configs that can be run, with what was measured of them here.

    Args:
        folder: with ``leaves.csv`` and ``measured_*.csv``.

    Returns:
        The leaves by config, in the order of the file.

    Raises:
        ValueError: a file is not of the form that this module describes, or a config is there
            twice.
    """
    measured: dict[str, tuple[dict[str, Measurement], str]] = {}
    for path in sorted(folder.glob("measured_*.csv")):
        for place, cells in _lines(path, ("config", "source")):
            config, source = cells.pop("config"), cells.pop("source")
            measured[config] = (_measurements(cells, place), source)
    leaves: dict[str, Leaf] = {}
    for place, line in _lines(
        folder / "leaves.csv", ("config", "bases", "method", "notes", "title")
    ):
        config = line["config"]
        if config in leaves:
            raise ValueError(f"{place}: {config} is there twice")
        bases, notes = (tuple(line[key].split()) for key in ("bases", "notes"))
        result = measured.pop(config, ({}, ""))
        leaves[config] = Leaf(config, bases, line["method"], notes, line["title"], *result)
    if measured:
        raise ValueError(f"{folder / 'leaves.csv'}: lacks {min(measured)}, which was measured")
    return leaves


def read_notes(folder: Path = TABLES) -> dict[str, str]:
    """Read the sentences that headers of configs give besides their rows, by name."""
    return {
        line["note"]: line["text"] for _, line in _lines(folder / "notes.csv", ("note", "text"))
    }


def rows_of(
    leaves: dict[str, Leaf], tables: dict[str, Table]
) -> dict[str, list[tuple[Table, Row]]]:
    """Find the printed rows that each config runs.

    Args:
        leaves: of :func:`read_leaves`.
        tables: of :func:`read_tables`.

    Returns:
        By config, its rows with their tables; none for configs in neither paper.

    Raises:
        ValueError: a row names a config that is no leaf.
    """
    rows: dict[str, list[tuple[Table, Row]]] = {config: [] for config in leaves}
    for table in tables.values():
        for row in table.rows:
            if row.config and row.config not in rows:
                raise ValueError(
                    f"{table.name}.csv: {row.label!r} names {row.config}, which leaves.csv lacks"
                )
            if row.config and table.paper:
                rows[row.config].append((table, row))
    return rows


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each line's place, for messages, and its cells by column."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ())[: len(columns)] != columns:
            raise ValueError(
                f"{path}: expected the columns {', '.join(columns)}, got {reader.fieldnames}"
            )
        for cells in reader:
            place = f"{path}, line {reader.line_num}"
            if None in cells or None in cells.values():
                raise ValueError(f"{place}: expected {len(reader.fieldnames)} cells")
            yield place, cells


def _numbers(cells: dict[str, str], place: str) -> dict[str, Decimal]:
    """Return the numbers of a line, by metric, without empty cells."""
    return {metric: _number(cell, metric, place) for metric, cell in cells.items() if cell}


def _measurements(cells: dict[str, str], place: str) -> dict[str, Measurement]:
    found = {}
    for metric, cell in cells.items():
        mean, *deviation = cell.split(" ± ")
        if mean:
            numbers = [_number(text, metric, place) for text in (mean, *deviation)]
            found[metric] = Measurement(numbers[0], *numbers[1:] or [None])
    return found


def _number(text: str, metric: str, place: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{place}: {metric} must be a number, got {text!r}") from None
