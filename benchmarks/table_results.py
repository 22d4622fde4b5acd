# SPDX-License-Identifier: Apache-2.0
"""Results of a table of rows that were run: computed, printed, and read again.

A table's result has its groups of classes, its rows (config, own options, the row whose runs it
continues, its seeds, the metrics of every run, their mean and deviation, the seconds of an
iteration of every run on the machine that made it) and differences (mean, standard error, 95 %
confidence interval) on the seeds that both have; paired where a row continues the other's runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from longtail.analysis.statistics import common_metrics, difference, spread

MEAN = "mean and standard deviation"
DIFFERENCE = "mean difference, its standard error and 95 % confidence interval"


@dataclass(frozen=True)
class Line:
    """A row with its results.

    Attributes:
        config: below ``configs/``.
        options: of this row alone.
        continues: the label of the row whose run of a seed it continues, "" for none.
        runs: the metrics of the run of each seed.
        seconds: of an iteration of each of them, None where nothing was trained.
        parts: of a seed that was run for an earlier result: its date, command and machine.
    """

    config: str
    options: tuple[str, ...]
    continues: str
    runs: dict[int, dict[str, float]]
    seconds: dict[int, float | None] = field(default_factory=dict)
    parts: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows with their results.

    Attributes:
        lines: by label; the first is what the others are compared with.
        groups: the names of the classes of each group, if they are those of all runs.
    """

    lines: dict[str, Line]
    groups: dict[str, list[str]]


def table_result(table: Table) -> dict[str, Any]:
    """The result of a table.

    Args:
        table: whose rows have a run each at least.
    """
    lines = table.lines
    first = next(iter(lines))
    pairs = [(label, first) for label in lines if label != first]
    pairs += [
        (k, v.continues) for k, v in lines.items() if v.continues in lines and v.continues != first
    ]
    found = (_difference(lines, label, base) for label, base in pairs)
    return {
        "groups": table.groups,
        "rows": {label: _row_result(line) for label, line in lines.items()},
        DIFFERENCE: [item for item in found if item],
    }


def _row_result(line: Line) -> dict[str, Any]:
    runs = list(line.runs.values())
    means = {metric: spread([run[metric] for run in runs]) for metric in common_metrics(runs)}
    return {
        "config": line.config,
        "options": list(line.options),
        "continues": line.continues or None,
        "seeds": list(line.runs),
        MEAN: {k: [s.mean, s.deviation] for k, s in means.items()},
        "runs": runs,
        "seconds an iteration": [line.seconds.get(seed) for seed in line.runs],
    }


def _difference(lines: dict[str, Line], label: str, base: str) -> dict[str, Any] | None:
    """Compare two rows on the seeds that both have; None if there are none."""
    seeds = [seed for seed in lines[label].runs if seed in lines[base].runs]
    if not seeds:
        return None
    own, others = ([lines[name].runs[seed] for seed in seeds] for name in (label, base))
    # An equal seed alone pairs nothing here: another network shifts all later random draws.
    paired = lines[label].continues == base
    metrics = {}
    for key in common_metrics([*own, *others]):
        d = difference([run[key] for run in own], [run[key] for run in others], paired=paired)
        metrics[key] = [d.mean, d.error, d.low, d.high]
    return {"row": label, "base": base, "paired": paired, "seeds": seeds, "metrics": metrics}


def printed(result: dict[str, Any], main: str = "") -> str:
    """Write a table for the console: a line a row, without the metrics of single classes.

    Args:
        result: of :func:`table_result`.
        main: the metric to sort by, the best first, whose difference to the first row is shown; by
            default the first metric, unsorted.
    """
    rows = result["rows"]
    first = next(iter(rows))
    metrics = [
        metric
        for metric in common_metrics([row[MEAN] for row in rows.values()])
        if not metric.startswith(("IoU ", "Acc ", "acc "))
    ]
    if main:
        rows = dict(sorted(rows.items(), key=lambda item: -item[1][MEAN][main][0]))
    main = main or next(iter(metrics), "")
    gains = {
        d["row"]: d["metrics"][main]
        for d in result[DIFFERENCE]
        if d["base"] == first and main in d["metrics"]
    }
    lines = []
    for label, row in rows.items():
        gain, error, *_ = gains.get(label, (None, None))
        difference = "" if gain is None else f"{gain:+.2f} ± {error:.2f}"
        cells = (f"{row[MEAN][m][0]:.2f} ± {row[MEAN][m][1]:.2f}" for m in metrics)
        lines.append([label, _seeds(row["seeds"]), *cells, difference])
    headers = ["", "seeds", *metrics, f"{main} - {first}"]
    return tabulate(lines, headers, disable_numparse=True).replace(" ± nan", "")


def _seeds(seeds: Sequence[int]) -> str:
    return ",".join(str(seed) for seed in seeds)
