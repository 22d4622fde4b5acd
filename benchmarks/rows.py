# SPDX-License-Identifier: Apache-2.0
"""Tables of rows that benchmarks train, run by longtail.jobs, and one form of results.

A result has the seeds, the options of all runs, its tables (see table_results.py), and the parts
that were merged into it: date, command and machine of runs that were made elsewhere or before.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, save_result
from merging import check_rows, merged, origins, read_result, without_earlier
from table_results import Line, Table, printed, table_result

from longtail.analysis.correlation import frequency_correlation
from longtail.analysis.runs import Run
from longtail.analysis.study import class_counts, known_frequencies
from longtail.jobs.arguments import add_run_arguments
from longtail.jobs.plan import Plan, Row, make_plan
from longtail.jobs.run import run_rows

# Name of a table -> label of a row -> the row; the first one is what the others are compared with.
Tables = dict[str, dict[str, Row]]


def add_table_arguments(parser: argparse.ArgumentParser, *, output: str, seeds: int = 3) -> None:
    """Add the options of a benchmark that runs tables.

    Args:
        parser: of the benchmark.
        output: the default folder of its runs.
        seeds: how many by default.
    """
    add_run_arguments(parser, seeds=seeds, output=output)
    parser.add_argument(
        "--merge",
        type=Path,
        metavar="FILE",
        help="earlier result, whose runs are added, not run again unless a new row continues them",
    )


def folder_rows(folder: str, methods: Sequence[str] | None, baseline: str) -> dict[str, Row]:
    """The rows of a folder of configs, the baseline first.

    Args:
        folder: below ``configs/``.
        methods: names of configs; by default all.
        baseline: the config that the others are compared with.
    """
    paths = sorted((ROOT / "configs" / folder).glob("[!B]*.yaml"))
    names = dict.fromkeys([baseline, *(methods or [path.stem for path in paths])])
    return {name: Row(f"{folder}/{name}.yaml") for name in names}


def run_tables(
    result: str,
    tables: Tables,
    arguments: argparse.Namespace,
    *,
    options: Sequence[str] = (),
    datasets: Callable[[int], Path] | None = None,
    main: str = "",
) -> None:
    """Run what is missing, print every table, and write the result.

    Args:
        result: name of the file in ``benchmarks/results``.
        tables: what is run.
        arguments: of :func:`add_table_arguments`.
        options: keys and values of all runs.
        datasets: the folder of the data sets of a seed.
        main: the metric that the printed rows are sorted by; without it they keep their order.
    """
    earlier = {}
    if arguments.merge:
        earlier = read_result(arguments.merge, options)
        check_rows(earlier, tables, arguments.merge)
    rows = [row for table in tables.values() for row in table.values()]
    to_run = tables
    if earlier:
        imports = arguments.imports
        every = make_plan(rows, arguments.seeds, arguments.output, options=options, imports=imports)
        to_run = without_earlier(tables, earlier, every, arguments.merge)
        rows = [row for table in to_run.values() for row in table.values()]
    plan, runs = run_rows(rows, arguments, options=options, datasets=datasets)
    if arguments.dry_run or arguments.launcher != "local":
        return
    found = merged(tables_of(to_run, plan, runs), earlier, tables, arguments.merge)
    written = {name: table_result(table) for name, table in found.items()}
    for name, table in written.items():
        print(f"\n{name}, percent, mean ± standard deviation")
        print(printed(table, main))
    seeds = {seed for t in found.values() for line in t.lines.values() for seed in line.runs}
    parts = origins(found)
    save_result(
        result,
        {
            "seeds": sorted(seeds),
            "options": list(options),
            **({"parts": parts} if parts else {}),
            "tables": written,
        },
    )


def results_of(tables: Tables, plan: Plan, runs: dict[Row, list[Run]]) -> dict[str, Any]:
    """The results of each table, by its name.

    Args:
        tables: of which all rows have runs.
        plan: of their jobs.
        runs: of each row, one a seed.
    """
    found = tables_of(tables, plan, runs)
    return {name: table_result(table) for name, table in found.items()}


def tables_of(tables: Tables, plan: Plan, runs: dict[Row, list[Run]]) -> dict[str, Table]:
    """The tables with the results of their rows, by name.

    Args:
        tables: of which all rows have runs.
        plan: of their jobs.
        runs: of each row, one a seed.
    """
    found = {}
    for name, table in tables.items():
        lines = {label: _line(plan, table, label, runs) for label in table}
        of_all = [run for row in table.values() for run in runs[row]]
        found[name] = Table(lines, _groups(of_all))
    return found


def _line(plan: Plan, table: dict[str, Row], label: str, runs: dict[Row, list[Run]]) -> Line:
    row = table[label]
    firsts = [job.first for job in plan.by_row[row]]
    continued = [k for k, other in table.items() if list(plan.by_row[other]) == firsts]
    seeds = [job.seed for job in plan.by_row[row]]
    metrics = {seed: _metrics(run) for seed, run in zip(seeds, runs[row], strict=True)}
    seconds = {seed: _seconds(run) for seed, run in zip(seeds, runs[row], strict=True)}
    return Line(row.config, row.options, continued[0] if continued else "", metrics, seconds)


def _seconds(run: Run) -> float | None:
    """The median over what was logged, itself medians of some iterations."""
    times = [line["time"] for line in run.history() if "time" in line]
    return round(statistics.median(times), 3) if times else None


def _metrics(run: Run) -> dict[str, float]:
    """All metrics of a run, the correlations with frequency, and those of the classes."""
    evaluation = run.evaluation()
    correlations = {
        f"Pearson {metric}, {name}": frequency_correlation(values, class_counts(evaluation, name))[
            "pearson"
        ]
        for metric, values in evaluation.per_class.items()
        for name in known_frequencies(evaluation)
    }
    classes = {
        f"{metric} {name}": float(value)
        for metric, values in evaluation.per_class.items()
        for name, value in zip(evaluation.class_names, values, strict=True)
    }
    return run.metrics() | correlations | (classes if evaluation.task == "sem_seg" else {})


def _groups(runs: Sequence[Run]) -> dict[str, list[str]]:
    found = []
    for run in runs:
        evaluation = run.evaluation()
        groups = {
            group: [evaluation.class_names[index] for index in members]
            for group, members in evaluation.groups.items()
        }
        if groups not in found:
            found.append(groups)
    return found[0] if len(found) == 1 else {}
