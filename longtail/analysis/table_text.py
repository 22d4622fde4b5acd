# SPDX-License-Identifier: Apache-2.0
"""Filled-in tables as text, Markdown and CSV."""

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

from tabulate import tabulate

from longtail.analysis.metric_names import MULTI_SCALE_ENDING
from longtail.analysis.paper_tables import Cell, FilledTable, FilledTables, Line
from longtail.utils.text import write_csv

# Between columns, and the length of lines below a table.
GAP = "  "
WIDTH = 100
HEADING = "About the runs"
# A number, and what follows it: the numbers are aligned at their points.
Number = tuple[str, str]
COLUMNS = ("table", "row", "config", "metric", "published", "mean", "deviation", "difference")


def to_text(filled: FilledTables, notes: Mapping[str, str]) -> str:
    """Write tables for a terminal.

    Args:
        filled: the tables.
        notes: sentences by name, of :func:`longtail.config.tables.read_notes`.
    """
    parts = []
    for table in filled.tables:
        remarks = [_wrapped(remark) for remark in _remarks(table, notes)]
        lines = _aligned(_headers(table), _columns(table))
        parts.append(_joined(_title(table), "\n".join(lines), "\n".join(remarks)))
    if filled.remarks:
        parts.append("\n".join([f"{HEADING}:", *map(_wrapped, filled.remarks), ""]))
    return "\n\n".join(parts)


def to_markdown(filled: FilledTables, notes: Mapping[str, str]) -> str:
    """Write tables for a page in Markdown; arguments as of :func:`to_text`."""
    parts = [_markdown(table, notes) for table in filled.tables]
    if filled.remarks:
        parts.append("\n".join([f"### {HEADING}", "", *(f"- {r}" for r in filled.remarks), ""]))
    return "\n".join(parts)


def _markdown(filled: FilledTable, notes: Mapping[str, str]) -> str:
    columns = [[" ".join(filter(None, cell)) for cell in column] for column in _columns(filled)]
    rows = [[cell.replace("|", r"\|") for cell in row] for row in zip(*columns, strict=True)]
    headers = [header.replace("\n", " ") for header in _headers(filled)]
    align = ["right" if header in filled.metrics else "left" for header in headers]
    text = tabulate(rows, headers, "pipe", disable_numparse=True, colalign=align)
    remarks = [f"- {remark}" for remark in _remarks(filled, notes)]
    return _joined(f"### {_title(filled)}", text, "\n".join(remarks))


def _joined(*blocks: str) -> str:
    return "\n\n".join(filter(None, blocks)) + "\n"


def _wrapped(remark: str) -> str:
    return textwrap.fill(remark, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def to_csv(filled: FilledTables) -> str:
    """Write tables as CSV: a line a row and metric, numbers with all their digits."""
    file = io.StringIO()
    write_csv(
        file, [*COLUMNS, "runs", "seeds"], [r for table in filled.tables for r in _records(table)]
    )
    return file.getvalue()


def _records(filled: FilledTable) -> list[dict[str, object]]:
    return [
        {
            "table": filled.table.short,
            "row": line.row.label,
            "config": line.row.config,
            "metric": metric,
            "published": "" if cell.published is None else cell.published.mean,
            "mean": cell.mean,
            "deviation": cell.deviation,
            "difference": cell.difference,
            "runs": len(line.runs),
            "seeds": " ".join(map(str, line.seeds)),
        }
        for line in filled.lines
        for metric, cell in line.cells.items()
    ]


def _title(filled: FilledTable) -> str:
    """The title, and what the numbers are; those of class statistics are no percentages."""
    what = [] if filled.table.command else ["percent"]
    if not _has_values(filled) and any(line.has_published for line in filled.lines) and what:
        what.append("as published" if filled.table.paper else "as recorded here")
    return ", ".join([filled.table.title, *what])


def _metrics(filled: FilledTable) -> list[str]:
    """The columns of numbers: one for one scale and several, if no row has both."""
    single = [name for name in filled.metrics if not name.endswith(MULTI_SCALE_ENDING)]
    both = any(
        name in line.cells and f"{name}{MULTI_SCALE_ENDING}" in line.cells
        for line in filled.lines
        for name in single
    )
    return list(filled.metrics) if both or not single else single


def _headers(filled: FilledTable) -> list[str]:
    """Headers of several lines, since numbers are narrow."""
    names = [name.replace(" ", "\n") for name in _metrics(filled)]
    return ["row", "", *names, "runs"] if _has_values(filled) else ["row", *names, "config"]


def _has_values(filled: FilledTable) -> bool:
    return any(line.has_values for line in filled.lines)


def _columns(filled: FilledTable) -> list[list[Number]]:
    """The cells of a table by column: row, whose numbers, the metrics, runs.

    Where there is nothing of here: row, the metrics, config.
    """
    marks = _marks(filled)
    rows = []
    for line in filled.lines:
        rows += _rows(filled, line, "".join(f" [{marks[note]}]" for note in line.notes))
    return [list(column) for column in zip(*rows, strict=True)]


def _rows(filled: FilledTable, line: Line, marks: str) -> list[list[Number]]:
    """One row of the table: what is published and, where there are runs, two more."""
    config = line.row.config or "no config"
    if line.row.dataset:
        config = f"class statistics of {line.row.dataset}"
    label, source = line.row.label, "published" if filled.table.paper else "recorded"
    if not line.cells.keys() & {*_metrics(filled)}:
        label += MULTI_SCALE_ENDING
    label += marks
    if not _has_values(filled):
        row = _row(filled, line, label, source, _published, config)
        return [[row[0], *row[2:]]]
    if not line.has_values:
        state = "none" if line.row.config else config
        return [_row(filled, line, label, source, _published, state)]
    seeds = f"seed{'s' * (len(line.runs) > 1)} {', '.join(map(str, line.seeds))}"
    origin = f"{len(line.runs)}: {seeds}" if line.runs else config
    return [
        _row(filled, line, label, source, _published, ""),
        _row(filled, line, "", "here", lambda cell: _here(cell, len(line.runs)), origin),
        _row(filled, line, "", "difference", _difference, ""),
    ]


def _row(
    filled: FilledTable,
    line: Line,
    label: str,
    source: str,
    text: Callable[[Cell], Number],
    last: str,
) -> list[Number]:
    cells = (
        line.cells.get(metric, line.cells.get(f"{metric}{MULTI_SCALE_ENDING}"))
        for metric in _metrics(filled)
    )
    numbers = [text(cell) if cell else ("", "") for cell in cells]
    return [("", label), ("", source), *numbers, ("", last)]


def _published(cell: Cell) -> Number:
    if cell.published is None:
        return "", ""
    deviation = cell.published.deviation
    return str(cell.published.mean), "" if deviation is None else f"± {deviation}"


def _here(cell: Cell, num_runs: int) -> Number:
    if not cell.count:
        return "-", ""
    deviation = "" if math.isnan(cell.deviation) else f"± {cell.deviation:.{cell.digits}f}"
    # Not every run was tested with several scales.
    runs = f"({cell.count})" if num_runs and cell.count < num_runs else ""
    return f"{cell.mean:.{cell.digits}f}", " ".join(filter(None, (deviation, runs)))


def _difference(cell: Cell) -> Number:
    if math.isnan(cell.difference):
        return "", ""
    # Not -0.0.
    return f"{round(cell.difference, cell.digits) + 0.0:+.{cell.digits}f}", ""


def _aligned(headers: Sequence[str], columns: Sequence[Sequence[Number]]) -> list[str]:
    """Lines of text: numbers to the right, what follows them to the left."""
    height = max(header.count("\n") for header in headers) + 1
    padded = []
    for header, column in zip(headers, columns, strict=True):
        first, second = (max(len(cell[part]) for cell in column) for part in (0, 1))
        texts = [
            f"{number:>{first}}{' ' * bool(first and second)}{more:<{second}}"
            for number, more in column
        ]
        parts = header.split("\n")
        parts = [""] * (height - len(parts)) + parts
        width = max(len(text) for text in [*texts, *parts])
        heads = [f"{part:>{first}}" if first else part for part in parts]
        padded.append([text.ljust(width) for text in [*heads, "-" * width, *texts]])
    return [GAP.join(row).rstrip() for row in zip(*padded, strict=True)]


def _marks(filled: FilledTable) -> dict[str, int]:
    names = dict.fromkeys(note for line in filled.lines for note in line.notes)
    return {name: number for number, name in enumerate(names, 1)}


def _remarks(filled: FilledTable, notes: Mapping[str, str]) -> list[str]:
    """What stands below a table."""
    table, lines = filled.table, filled.lines
    found = [f"[{number}] {notes[name]}" for name, number in _marks(filled).items()]
    if table.command:
        found.append(f"These numbers are not those of runs: {table.command}")
    elif any(not line.row.config for line in lines):
        found.append("No config: another method that is not implemented here, see docs/methods.md.")
    with_config = [line for line in lines if line.row.config]
    missing = [line for line in with_config if not line.runs]
    if table.paper and not any(line.row.metrics for line in lines):
        found.append("No number is printed: a row is a part of a plot.")
    if missing and filled.num_runs:
        found.append(f"{len(missing)} of {len(with_config)} rows have no run.")
    return found
