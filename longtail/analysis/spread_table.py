# SPDX-License-Identifier: Apache-2.0
"""A table of means and deviations over runs: one group of runs beside the other."""

import io
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from longtail.analysis.choices import FORMATS
from longtail.analysis.statistics import common_metrics, spread, value_text
from longtail.utils.text import markdown_cell, write_csv


def spread_table(
    groups: Mapping[tuple[str, ...], Sequence[Mapping[str, float]]],
    names: Sequence[str],
    form: str = "text",
) -> str:
    """Write mean and deviation of every metric over the runs of each group.

    Args:
        groups: the metrics of the runs, in percent, by the group's values of ``names``.
        names: of what sets the groups apart.
        form: ``"text"`` and ``"markdown"`` have a line a metric, ``"csv"`` a line a group, with a
            column a metric and one for its deviation.

    Raises:
        ValueError: another form, or a group without runs.
    """
    if form not in FORMATS:
        raise ValueError(f"expected one of {', '.join(FORMATS)}, got {form!r}")
    metrics = common_metrics([run for runs in groups.values() for run in runs])
    spreads = {
        group: {metric: spread([run[metric] for run in runs]) for metric in metrics}
        for group, runs in groups.items()
    }
    if form == "csv":
        columns = [*names, "runs", *(c for m in metrics for c in (m, f"{m} deviation"))]
        rows = []
        for group, values in spreads.items():
            row = dict(zip(names, group, strict=True)) | {"runs": len(groups[group])}
            for metric, value in values.items():
                row[metric] = float(value.mean)
                row[f"{metric} deviation"] = float(value.deviation)
            rows.append(row)
        file = io.StringIO()
        write_csv(file, columns, rows)
        return file.getvalue().rstrip("\n")
    headers = ["percent", *("\n".join(_labels(names, group)) for group in groups)]
    if form == "markdown":
        headers = [markdown_cell(header.replace("\n", ", ")) for header in headers]
    rows = [[m, *(value_text(spreads[group][m]) for group in groups)] for m in metrics]
    style = "github" if form == "markdown" else "simple"
    return tabulate(rows, headers, tablefmt=style, disable_numparse=True)


def _labels(names: Sequence[str], group: tuple[str, ...]) -> list[str]:
    return [f"{name} {value}" for name, value in zip(names, group, strict=True)]
