# SPDX-License-Identifier: Apache-2.0
"""A comparison as text, Markdown or CSV.

Shapes: K classes.
"""

import io
import math
from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.compare import Comparison, Values, class_correlations, interval
from longtail.analysis.gain import largest_changes
from longtail.analysis.statistics import Difference, value_text
from longtail.utils.text import markdown_cell, write_csv
from longtail.visualization.figures import MOST_NAMES

# Classes that gained, and that lost most.
NUMBER = 5
_CSV = ("metric", "class", "group", "train_pixels", "train_images", "train_instances", "method")
_CSV_VALUES = ("runs", "mean", "deviation", "difference", "low", "high", "paired")


def render(comparison: Comparison, form: str) -> str:
    """Write a comparison out.

    Args:
        comparison: of :func:`~longtail.analysis.compare.compare_methods`.
        form: one of :data:`~longtail.analysis.choices.FORMATS`. CSV has a line for every
            metric and method, and for every metric, class and method, with all digits.

    Returns:
        Lines, with a line break at the end of each.
    """
    if form == "csv":
        return _csv(comparison)
    parts = [_opening(comparison, form)]
    for title, headers, rows in _tables(comparison):
        title = f"## {title}" if form == "markdown" else title
        if form == "markdown":
            headers = [markdown_cell(header) for header in headers]
            rows = [[markdown_cell(cell) for cell in row] for row in rows]
        kind = "pipe" if form == "markdown" else "simple"
        align = ["left"] + ["right"] * (len(headers) - 1)
        # Numbers are written as they shall stand.
        table = tabulate(rows, headers, kind, disable_numparse=True, colalign=align)
        parts.append(f"{title}\n\n{table}" if rows else f"{title}\n\nnone")
    return "\n\n".join(parts) + "\n"


def difference_text(found: Difference, index: int | tuple[()] = ()) -> str:
    """The difference and its confidence interval, ``+2.10 [+0.31, +3.89]``."""
    mean, bounds = float(found.mean[index]), interval(found, index)
    if math.isnan(mean):
        return "-"
    return f"{mean:+.2f}" + (f" [{bounds[0]:+.2f}, {bounds[1]:+.2f}]" if bounds else "")


def changed_classes(
    comparison: Comparison, metric: str, position: int, number: int = NUMBER
) -> list[int]:
    """The classes that gained and lost most in a metric, from the largest gain to the largest loss.

    Args:
        comparison: of two methods or more.
        metric: of classes.
        position: of the method among those that are compared with the first, from 0.
        number: how many that gained, and that lost, at most.
    """
    gain = comparison.classes[metric].differences[position].mean
    gained, lost = largest_changes(gain, number)
    return [*gained.tolist(), *reversed(lost.tolist())]


def _opening(comparison: Comparison, form: str) -> str:
    first = comparison.evaluation
    classes = f"{len(first.class_names)} classes"
    if comparison.groups:
        sizes = (f"{name} {len(members)}" for name, members in comparison.groups.items())
        classes += f" ({', '.join(sizes)})"
    bullet, heading = ("- ", "# ") if form == "markdown" else ("  ", "")
    lines = [f"{heading}{first.dataset}: {first.num_images} images, {classes}, in percent", ""]
    for method in comparison.methods:
        number = "1 run" if len(method.runs) == 1 else f"{len(method.runs)} runs"
        seeds = ", ".join("?" if seed < 0 else str(seed) for seed in method.seeds)
        what = "seed" if len(method.runs) == 1 else "seeds"
        lines.append(f"{bullet}{method.label}: {number}, {what} {seeds}")
    several = any(len(method.runs) > 1 for method in comparison.methods)
    explained = "± is the standard deviation over runs; " if several else ""
    if len(comparison.methods) > 1 and several:
        explained += "brackets are the 95 % confidence interval of the difference (Student's t)"
    notes = [f"{explained.rstrip('; ')}."] if explained else []
    lines += ["", *notes, *comparison.notes] if notes or comparison.notes else []
    return "\n".join(lines)


def _tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    base, *others = (method.label for method in comparison.methods)
    columns = [base, *others, *(f"{label} - {base}" for label in others)]
    tables = [
        (
            "Metrics",
            ["metric", *columns],
            [[name, *_cells(values)] for name, values in comparison.metrics.items()],
        )
    ]
    if correlations := correlation_rows(comparison):
        title = "Correlation of classes with their frequency: Pearson / Spearman, in percent"
        tables.append((title, ["metric, frequency", base, *others], correlations))
    for metric, values in comparison.classes.items():
        for position, label in enumerate(others):
            rows = [
                [
                    *_class_cells(comparison, index),
                    value_text(values.spreads[0], index),
                    value_text(values.spreads[position + 1], index),
                    difference_text(values.differences[position], index),
                ]
                for index in changed_classes(comparison, metric, position)
            ]
            headers = [*_class_headers(comparison), base, label, "difference"]
            tables.append((f"{metric} of the classes that changed most, {label}", headers, rows))
    if len(comparison.evaluation.class_names) <= MOST_NAMES:
        # The further metrics of classes are in the CSV.
        metric, values = next(iter(comparison.classes.items()))
        rows = [
            [*_class_cells(comparison, index), *_cells(values, index)] for index in comparison.order
        ]
        headers = [*_class_headers(comparison), *columns]
        tables.append((f"{metric} of all classes", headers, rows))
    return tables


def _cells(values: Values, index: int | tuple[()] = ()) -> list[str]:
    return [
        *(value_text(found, index) for found in values.spreads),
        *(difference_text(found, index) for found in values.differences),
    ]


def _class_headers(comparison: Comparison) -> list[str]:
    headers = ["class", "group"] if comparison.groups else ["class"]
    return [*headers, FREQUENCIES[comparison.frequency][1]] if comparison.frequency else headers


def _class_cells(comparison: Comparison, index: int) -> list[str]:
    cells = [comparison.evaluation.class_names[index]]
    if comparison.groups:
        cells.append(comparison.group_of(index))
    if comparison.frequency:
        cells.append(f"{comparison.counts[index]:,}")
    return cells


def correlation_rows(comparison: Comparison) -> list[list[str]]:
    """Metric and frequency, and of each method Pearson's and Spearman's coefficient."""
    return [
        [
            f"{metric}, {FREQUENCIES[frequency][1]}",
            *(f"{v['pearson']:.1f} / {v['spearman']:.1f}".replace("nan", "-") for v in found),
        ]
        for (metric, frequency), found in class_correlations(comparison).items()
    ]


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    write_csv(text, (*_CSV, *_CSV_VALUES), _csv_rows(comparison))
    return text.getvalue()


def _csv_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for metric, values in comparison.metrics.items():
        for position in range(len(comparison.methods)):
            yield {"metric": metric, **_csv_values(comparison, values, position)}
    first = comparison.evaluation
    for metric, values in comparison.classes.items():
        for index in comparison.order:
            described = {
                "metric": metric,
                "class": first.class_names[index],
                "group": comparison.group_of(index),
                **{f"train_{key}": counts[index] for key, counts in first.train_counts.items()},
            }
            for position in range(len(comparison.methods)):
                yield {**described, **_csv_values(comparison, values, position, index)}


def _csv_values(
    comparison: Comparison, values: Values, position: int, index: int | tuple[()] = ()
) -> dict[str, Any]:
    of_method = values.spreads[position]
    cells = {
        "method": comparison.methods[position].label,
        "runs": of_method.count,
        "mean": float(of_method.mean[index]),
        "deviation": float(of_method.deviation[index]),
    }
    if position:
        found = values.differences[position - 1]
        cells |= {
            "difference": float(found.mean[index]),
            "low": float(found.low[index]),
            "high": float(found.high[index]),
            "paired": found.paired,
        }
    return cells
