# SPDX-License-Identifier: Apache-2.0
"""The papers' tables beside one's own runs: published, here, difference.

All metrics are in percent; means and deviations are over seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from longtail.analysis.matching import Matching, match_runs
from longtail.analysis.recipes import read_recipe
from longtail.analysis.runs import Run
from longtail.analysis.statistics import spread
from longtail.config.tables import Leaf, Measurement, Row, Table
from longtail.data.statistics.class_stats import ClassStats, get_class_stats

# Of what has no published number.
DIGITS = 1


@dataclass(frozen=True)
class Cell:
    """A number of a table and what stands against it here.

    Attributes:
        published: as printed; of a table of ours what was recorded. None if there is none.
        mean: of the runs that have the metric; NaN if there are none.
        deviation: of a single run (n - 1 in its denominator); NaN for fewer than two.
        count: of those runs.
        digits: after the point, those that were printed.
    """

    published: Measurement | None
    mean: float
    deviation: float
    count: int
    digits: int

    @property
    def is_known(self) -> bool:
        """Tell whether there is a number, published or of here."""
        return self.published is not None or self.count > 0

    @property
    def difference(self) -> float:
        """The mean minus the published number; NaN if there is none of either."""
        return math.nan if self.published is None else self.mean - float(self.published.mean)


@dataclass(frozen=True)
class Line:
    """A row of a table, filled in.

    Attributes:
        row: as printed.
        notes: names of the notes that apply to it, see :func:`longtail.config.tables.read_notes`.
        runs: that count for it.
        cells: by metric; where the row prints numbers only their metrics.
    """

    row: Row
    notes: tuple[str, ...]
    runs: tuple[Run, ...]
    cells: dict[str, Cell]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def has_published(self) -> bool:
        """Tell whether there is a published number, or a recorded one."""
        return any(cell.published is not None for cell in self.cells.values())

    @property
    def has_values(self) -> bool:
        """Tell whether there is anything of here, of runs or of class statistics."""
        return any(cell.count for cell in self.cells.values())


@dataclass(frozen=True)
class FilledTable:
    """A table beside the runs of its rows.

    Attributes:
        table: as printed.
        metrics: its columns, without those that nobody has a number of.
        lines: one a row.
        num_runs: that were looked at.
    """

    table: Table
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    num_runs: int


@dataclass(frozen=True)
class FilledTables:
    """Tables beside the same runs.

    Attributes:
        tables: one or more.
        remarks: sentences on runs that count for no row, and why.
    """

    tables: tuple[FilledTable, ...]
    remarks: tuple[str, ...]


def fill_tables(
    tables: Sequence[Table], leaves: Mapping[str, Leaf], runs: Sequence[Run]
) -> FilledTables:
    """Put the runs of each row beside what it prints.

    Args:
        tables: any.
        leaves: of :func:`longtail.config.tables.read_leaves`.
        runs: any; which row each belongs to is found by its config.

    Raises:
        ValueError, OSError: class statistics that are needed cannot be counted.
    """
    configs = [row.config for table in tables for row in table.rows if row.config]
    folders = {config.partition("/")[0] for config in configs}
    others = [c for c in leaves if c.partition("/")[0] in folders and c not in configs]
    matching = match_runs(runs, configs, others) if runs and configs else Matching({}, [])
    filled = [_fill(table, leaves, matching, len(runs)) for table in tables]
    return FilledTables(tuple(filled), tuple(matching.remarks))


def _fill(
    table: Table, leaves: Mapping[str, Leaf], matching: Matching, num_runs: int
) -> FilledTable:
    counted = {row.dataset: get_class_stats(row.dataset) for row in table.rows if row.dataset}
    lines = []
    for index, row in enumerate(table.rows):
        own = tuple(matching.runs.get(row.config, ()))
        leaf = leaves.get(row.config)
        published = _published(table, row, leaf)
        values = _metrics(row, own)
        if row.dataset:
            values = _statistics(counted[row.dataset], index)
        names = row.metrics or table.metrics
        cells = {name: _cell(published.get(name), values.get(name, [])) for name in names}
        lines.append(Line(row, leaf.notes if leaf else (), own, cells))
    known = {name for line in lines for name, cell in line.cells.items() if cell.is_known}
    # Of a plot nothing is known.
    shown = [name for name in table.metrics if name in known or not known]
    return FilledTable(table, tuple(shown), tuple(lines), num_runs)


def _published(table: Table, row: Row, leaf: Leaf | None) -> Mapping[str, Measurement]:
    if table.paper:
        return {name: Measurement(value, None) for name, value in row.metrics.items()}
    return leaf.measured if leaf else {}


def _metrics(row: Row, runs: Sequence[Run]) -> dict[str, list[float]]:
    """The values of the runs on the row's test set, by metric."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.metrics(read_recipe(row.config).test_set).items():
            if not math.isnan(value):
                found.setdefault(name, []).append(value)
    return found


def _statistics(stats: ClassStats, index: int) -> dict[str, list[float]]:
    """What class statistics say of a data set, and of the class of a row."""
    values = {"PIF": stats.pixel_imbalance_factor, "RIF": stats.region_imbalance_factor}
    values["pixel share"] = stats.pixel_count[index] / stats.pixel_count.sum()
    return {name: [float(value)] for name, value in values.items()}


def _cell(published: Measurement | None, values: Sequence[float]) -> Cell:
    digits = _digits(published.mean) if published else DIGITS
    if not values:
        return Cell(published, math.nan, math.nan, 0, digits)
    over_runs = spread(values)
    return Cell(published, float(over_runs.mean), float(over_runs.deviation), len(values), digits)


def _digits(number: Decimal) -> int:
    return max(-number.as_tuple().exponent, 0)
