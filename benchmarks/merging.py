# SPDX-License-Identifier: Apache-2.0
"""Results to which several machines, or several days, add their runs.

A run belongs to a table, a row and a seed. The runs of an earlier result stand beside those of a
call, which has others; if both have the same one, it has to be the same: a first stage that was
trained twice is two, and what continues one of them is no pair with the other.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from table_results import Line, Table

from longtail.jobs.plan import Plan, Row
from longtail.jobs.state import is_done
from longtail.utils.text import read_text

# What says where and when runs were made.
ORIGIN = ("date", "command", "machine")
# Metrics that are computed again from the same files, by another version of NumPy.
_RELATIVE_TOLERANCE = 1e-9


def read_result(path: Path, options: Sequence[str]) -> dict[str, Table]:
    """Read the tables of an earlier result, with where each run was made.

    Args:
        path: of the file.
        options: of all runs of the call, which the result has to have, too.

    Raises:
        ValueError: it is no such result, or has other options.
        FileNotFoundError: there is no such file.
    """
    try:
        document = json.loads(read_text(path))
        figures = document["figures"]
        found = {name: _table(document, name) for name in figures["tables"]}
        of_all = list(figures["options"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a result of a benchmark that trains ({error!r}); name one that such a "
            "benchmark has written"
        ) from None
    if of_all != list(options):
        raise ValueError(
            f"{path}: its runs have the options '{' '.join(of_all)}', those of this call "
            f"'{' '.join(options)}': give the same ones, or another file"
        )
    return found


def check_rows(
    earlier: Mapping[str, Table], tables: Mapping[str, Mapping[str, Row]], path: Path
) -> None:
    """Check before anything is run that rows of one label are of one config.

    Args:
        earlier: of :func:`read_result`.
        tables: what will be run.
        path: for the message.

    Raises:
        ValueError: two of a label differ.
    """
    for name, table in tables.items():
        known = earlier[name].lines if name in earlier else {}
        for label in table.keys() & known.keys():
            own, other = ((x.config, tuple(x.options)) for x in (table[label], known[label]))
            _same(path, f"row {label} of {name}", "config and options", own, other)


def without_earlier(
    tables: Mapping[str, Mapping[str, Row]], earlier: Mapping[str, Table], plan: Plan, path: Path
) -> dict[str, dict[str, Row]]:
    """Leave out rows whose runs an earlier result has, unless other rows continue those runs.

    Args:
        tables: the rows of the call.
        earlier: of :func:`read_result`.
        plan: of all of them.
        path: for the message.

    Raises:
        ValueError: a run that the result has would be made again, and be another one.
    """
    known = {
        row: earlier[name].lines[label].runs
        for name, table in tables.items()
        for label, row in table.items()
        if name in earlier and label in earlier[name].lines
    }
    missing = {
        row
        for row, jobs in plan.by_row.items()
        if not all(job.seed in known.get(row, ()) for job in jobs)
    }
    continued = {job.first for row in missing for job in plan.by_row[row]}
    kept = missing | {row for row, jobs in plan.by_row.items() if continued.intersection(jobs)}
    for row in kept & known.keys():
        for job in plan.by_row[row]:
            if job.seed in known[row] and not is_done(job):
                raise ValueError(
                    f"{path} has seed {job.seed} of {row.config}, whose run is not in "
                    f"{job.folder}: copy it there, or run rows and seeds that the result lacks"
                )
    found = {name: {k: row for k, row in t.items() if row in kept} for name, t in tables.items()}
    return {name: table for name, table in found.items() if table}


def merged(
    own: Mapping[str, Table],
    earlier: Mapping[str, Table],
    tables: Mapping[str, Sequence[str]],
    path: Path,
) -> dict[str, Table]:
    """Unite what was run with an earlier result.

    Args:
        own: of this call.
        earlier: of :func:`read_result`.
        tables: the labels of the call's rows, run or not, which come first.
        path: for the messages.

    Raises:
        ValueError: groups of classes, configs, options, or a run that both have, differ.
    """
    found = {name: own.get(name) or earlier[name] for name in {**own, **earlier}}
    for name in own.keys() & earlier.keys():
        groups = own[name].groups, earlier[name].groups
        if all(groups):
            _same(path, name, "groups of classes", *groups)
        lines = {**earlier[name].lines, **own[name].lines}
        for label in own[name].lines.keys() & earlier[name].lines.keys():
            both = own[name].lines[label], earlier[name].lines[label]
            lines[label] = _merged_line(*both, f"row {label} of {name}", path)
        ordered = {k: lines[k] for k in dict.fromkeys([*tables[name], *lines]) if k in lines}
        # Empty where the groups of one of the two are not those of all its runs.
        found[name] = Table(ordered, groups[0] if all(groups) else {})
    return found


def origins(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Say where the runs of earlier results were made.

    Args:
        tables: of :func:`merged`.

    Returns:
        For each place and time the keys ``ORIGIN``, and ``seeds``: table -> row -> its seeds.
    """
    found: list[dict[str, Any]] = []
    for name, table in tables.items():
        for label, line in table.lines.items():
            for seed, origin in line.parts.items():
                part = next((p for p in found if all(p[k] == origin[k] for k in ORIGIN)), None)
                if part is None:
                    part = {**origin, "seeds": {}}
                    found.append(part)
                part["seeds"].setdefault(name, {}).setdefault(label, []).append(seed)
    return found


def _table(document: dict[str, Any], name: str) -> Table:
    figures = document["figures"]
    table = figures["tables"][name]
    lines = {}
    for label, row in table["rows"].items():
        # Results that nothing was merged into had no seeds for each row.
        seeds = row.get("seeds", figures["seeds"])
        runs = (
            {metric: math.nan if value is None else value for metric, value in run.items()}
            for run in row["runs"]
        )
        parts = {seed: {key: document[key] for key in ORIGIN} for seed in seeds}
        for part in figures.get("parts", []):
            for seed in part["seeds"].get(name, {}).get(label, []):
                parts[seed] = {key: part[key] for key in ORIGIN}
        lines[label] = Line(
            row["config"],
            tuple(row["options"]),
            row["continues"] or "",
            dict(zip(seeds, runs, strict=True)),
            dict(zip(seeds, row.get("seconds an iteration", ()), strict=False)),
            parts,
        )
    return Table(lines, table["groups"])


def _merged_line(own: Line, other: Line, where: str, path: Path) -> Line:
    # Its config and options say what it continues; a call without that row does not know its name.
    _same(path, where, "config and options", *((x.config, x.options) for x in (own, other)))
    for seed in own.runs.keys() & other.runs.keys():
        for metric in own.runs[seed].keys() & other.runs[seed].keys():
            here, there = own.runs[seed][metric], other.runs[seed][metric]
            if not _close(here, there):
                raise ValueError(
                    f"{path}: {where} has another run of seed {seed} ({metric} {there:.4g}, here "
                    f"{here:.4g}): give other seeds, or copy that run's folder into --output "
                    "before what continues it is run"
                )
    seeds = sorted(own.runs.keys() | other.runs.keys())
    taken = {seed: part for seed, part in other.parts.items() if seed not in own.runs}
    return replace(
        own,
        continues=own.continues or other.continues,
        runs={s: own.runs.get(s) or other.runs[s] for s in seeds},
        seconds=other.seconds | own.seconds,
        parts=taken,
    )


def _close(first: float, second: float) -> bool:
    both_missing = math.isnan(first) and math.isnan(second)
    return both_missing or math.isclose(first, second, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-9)


def _same(path: Path, where: str, kind: str, own: object, other: object) -> None:
    if own != other:
        raise ValueError(
            f"{path}: {where}: {kind} are {other}, in this call {own}: they cannot stand in one "
            "table; name another file"
        )
