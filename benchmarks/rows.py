# SPDX-License-Identifier: Apache-2.0
"""What benchmarks that train share: tables of rows, run by longtail.jobs, and one form of results.

A result has the seeds, options of all runs, and for each table its rows (config, own options, the
row whose runs it continues, the metrics of every run, their mean and deviation, and the seconds of
an iteration of every run on the machine that wrote the result) and differences
(mean, standard error, 95 % confidence interval; paired where a row continues the other's runs).
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, save_result
from tabulate import tabulate

from longtail.analysis.correlation import frequency_correlation
from longtail.analysis.runs import Run
from longtail.analysis.statistics import common_metrics, difference, spread
from longtail.analysis.study import class_counts, known_frequencies
from longtail.jobs.plan import Plan, Row
from longtail.jobs.run import run_rows

# Name of a table -> label of a row -> the row; the first one is what the others are compared with.
Tables = dict[str, dict[str, Row]]


@dataclass(frozen=True)
class Line:
    """A row with its results.

    Attributes:
        config: below ``configs/``.
        options: of this row alone.
        continues: the label of the row whose run of a seed it continues, "" for none.
        runs: the metrics of each run.
        seconds: of an iteration of each run, None where nothing was trained.
    """

    config: str
    options: tuple[str, ...]
    continues: str
    runs: tuple[dict[str, float], ...]
    seconds: tuple[float | None, ...] = ()


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
        arguments: of :func:`longtail.jobs.add_run_arguments`.
        options: keys and values of all runs.
        datasets: the folder of the data sets of a seed.
        main: the metric that the printed rows are sorted by; without it they keep their order.
    """
    rows = [row for table in tables.values() for row in table.values()]
    plan, runs = run_rows(rows, arguments, options=options, datasets=datasets)
    if not runs:
        return
    written = results_of(tables, plan, runs)
    for name, table in written.items():
        print(f"\n{name}, {len(arguments.seeds)} seeds, percent, mean ± standard deviation")
        print(printed(table, main))
    save_result(
        result, {"seeds": list(arguments.seeds), "options": list(options), "tables": written}
    )


def results_of(tables: Tables, plan: Plan, runs: dict[Row, list[Run]]) -> dict[str, Any]:
    """What is kept of each table, by its name.

    Args:
        tables: of which all rows have runs.
        plan: of their jobs.
        runs: of each row, one a seed.
    """
    written = {}
    for name, table in tables.items():
        lines = {label: _line(plan, table, label, runs) for label in table}
        of_all = [run for row in table.values() for run in runs[row]]
        written[name] = table_result(lines, _groups(of_all))
    return written


def table_result(lines: dict[str, Line], groups: dict[str, list[str]]) -> dict[str, Any]:
    """What is kept of a table.

    Args:
        lines: by label.
        groups: the names of the classes of each group, if they are those of all runs.
    """
    first = next(iter(lines))
    pairs = [(label, first) for label in lines if label != first]
    pairs += [(k, v.continues) for k, v in lines.items() if v.continues not in ("", first)]
    differences = []
    for label, base in pairs:
        # An equal seed alone pairs nothing here: another network shifts all later random draws.
        paired = lines[label].continues == base
        own, others = lines[label].runs, lines[base].runs
        found = {
            key: difference([run[key] for run in own], [run[key] for run in others], paired=paired)
            for key in common_metrics([*own, *others])
        }
        metrics = {key: [d.mean, d.error, d.low, d.high] for key, d in found.items()}
        differences.append({"row": label, "base": base, "paired": paired, "metrics": metrics})
    rows = {}
    for label, line in lines.items():
        means = {
            metric: spread([run[metric] for run in line.runs])
            for metric in common_metrics(line.runs)
        }
        rows[label] = {
            "config": line.config,
            "options": list(line.options),
            "continues": line.continues or None,
            "mean and standard deviation": {k: [s.mean, s.deviation] for k, s in means.items()},
            "runs": list(line.runs),
            "seconds an iteration": list(line.seconds),
        }
    return {
        "groups": groups,
        "rows": rows,
        "mean difference, its standard error and 95 % confidence interval": differences,
    }


def printed(table: dict[str, Any], main: str = "") -> str:
    """Write a table for the console: a line a row, without the metrics of single classes.

    Args:
        table: of :func:`table_result`.
        main: the metric to sort by, the best first, whose difference to the first row is shown.
    """
    (*_, differences) = table.values()
    rows = {k: row["mean and standard deviation"] for k, row in table["rows"].items()}
    first = next(iter(rows))
    metrics = [m for m in rows[first] if not m.startswith(("IoU ", "Acc ", "acc "))]
    main = main or metrics[0]
    gains = {d["row"]: d["metrics"][main] for d in differences if d["base"] == first}
    lines = []
    for label, means in sorted(rows.items(), key=lambda item: -item[1][main][0]):
        gain, error, *_ = gains.get(label, (None, None))
        difference = "" if gain is None else f"{gain:+.2f} ± {error:.2f}"
        cells = (f"{means[m][0]:.2f} ± {means[m][1]:.2f}" for m in metrics)
        lines.append([label, *cells, difference])
    headers = ["", *metrics, f"{main} - {first}"]
    return tabulate(lines, headers, disable_numparse=True).replace(" ± nan", "")


def _line(plan: Plan, table: dict[str, Row], label: str, runs: dict[Row, list[Run]]) -> Line:
    row = table[label]
    firsts = [job.first for job in plan.by_row[row]]
    continued = [k for k, other in table.items() if list(plan.by_row[other]) == firsts]
    metrics = tuple(_metrics(run) for run in runs[row])
    seconds = tuple(_seconds(run) for run in runs[row])
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
