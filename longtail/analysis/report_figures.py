# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: curves, groups, classes against frequency, confusion.

Shapes: K classes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.compare import Comparison
from longtail.analysis.compare_tables import difference_text
from longtail.analysis.confusion import Confusion, arranged, truth_percent
from longtail.analysis.report_drawing import (
    Drawing,
    count_axis,
    drawing,
    group_color,
    legend,
    plain_label,
)
from longtail.analysis.statistics import value_text
from longtail.visualization.figures import (
    MOST_NAMES,
    run_color,
    short_name,
    sorted_class_axis,
)
from longtail.visualization.hover import explain

# What training logs of an evaluation, without its prefix.
EVALUATED = ("mIoU", "mAcc", "AP", "APr", "mean_acc", "top1")
# Points of a curve; more of them are averaged.
POINTS = 250
# Cells of a confusion matrix that say what they are; a page of more of them is slow.
CELLS = 800
# A confusion matrix of more classes shows nothing at the width of a page.
MOST_CLASSES = 150


def curves(comparison: Comparison) -> list[Drawing]:
    """Losses, learning rate and metrics over iterations, of all runs that were logged."""
    histories = [
        (position, method.label, seed, run.history())
        for position, method in enumerate(comparison.methods)
        for seed, run in zip(method.seeds, method.runs, strict=True)
    ]
    counts = [Counter(key for line in history for key in line) for *_, history in histories]
    # A single point is no curve.
    logged = {key: None for count in counts for key, number in count.items() if number > 1}
    losses = sorted((key for key in logged if "loss" in key), key=lambda key: key != "total_loss")
    metrics = [key for key in logged if key.partition("/")[2] in EVALUATED]
    keys = [*losses, *metrics, *(["lr"] if "lr" in logged else [])]
    return [
        drawing(f"curve{number}", key, _curve, histories, key) for number, key in enumerate(keys)
    ]


def group_bars(comparison: Comparison) -> list[Drawing]:
    """Means over groups of classes, of every method."""
    families: dict[str, dict[str, str]] = {}
    for name in comparison.metrics:
        if group := comparison.group_of_metric(name):
            families.setdefault(comparison.family_of_metric(name), {})[group] = name
    return [
        drawing(f"groups{number}", f"{family or 'accuracy'} by group", _bars, comparison, names)
        for number, (family, names) in enumerate(families.items())
    ]


def class_figures(comparison: Comparison) -> list[Drawing]:
    """Gain of every method over the first, or the metric of a single one, by class and frequency.

    Empty where no count is known.
    """
    if not comparison.frequency:
        return []
    found = []
    for number, (metric, values) in enumerate(comparison.classes.items()):
        shown = values.differences or values.spreads
        for position, of_method in enumerate(shown):
            label = comparison.methods[position + bool(values.differences)].label
            title = f"{metric}: {label}"
            if values.differences:
                title += f" - {comparison.methods[0].label}"
            texts = [
                _class_text(comparison, metric, position, index)
                for index in range(len(comparison.evaluation.class_names))
            ]
            draw = _class_bars if len(texts) <= MOST_NAMES else _class_points
            name = f"classes{number}-{position}"
            found.append(drawing(name, title, draw, comparison, of_method.mean, texts, metric))
    return found


def heat_map(comparison: Comparison, confusion: Confusion, name: str, title: str) -> Drawing:
    """A confusion matrix in percent of the ground truth, frequent classes first.

    Args:
        comparison: for the names and the order of classes.
        confusion: (K, K) counts.
        name: of the figure in the page.
        title: of the figure.
    """
    order = comparison.order
    percent = truth_percent(arranged(confusion, order, MOST_CLASSES))
    names = [comparison.evaluation.class_names[index] for index in order]
    return drawing(name, title, _matrix, percent, names, height=4.4)


def class_values_figure(
    name: str, title: str, column: str, unit: str, rows: Sequence[dict[str, Any]]
) -> Drawing:
    """A value of classes against their count.

    Args:
        name: of the figure in the page.
        title: of the figure.
        column: the key of the value.
        unit: the key of the count.
        rows: one a class, with ``name``, and ``group`` if it is known.
    """
    return drawing(name, title, _rows, column, unit, rows)


def _rows(axes: Axes, column: str, unit: str, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        [point] = axes.plot(
            row[unit], row[column], "o", ms=4, color=group_color(row.get("group", ""))
        )
        explain(point, f"{row['name']}: {row[column]:.4g}, {row[unit]:,} {unit}")
    count_axis(axes, [row[unit] for row in rows], unit.replace("_", " "))
    axes.set_ylabel(column)
    axes.grid(alpha=0.3)


def _curve(axes: Axes, histories: Sequence[tuple], key: str) -> None:
    labelled = set()
    for position, label, seed, history in histories:
        points = [(line["iteration"], line[key]) for line in history if key in line]
        if not points:
            continue
        x, y = _thinned(np.array(points, dtype=np.float64))
        [line] = axes.plot(
            x,
            y,
            color=run_color(position),
            alpha=0.85,
            linewidth=1.3,
            marker="o" if len(x) <= 12 else None,
            markersize=3.5,
            label=None if label in labelled else plain_label(label),
        )
        explain(line, f"{label}, seed {seed}: {y[-1]:.4g} at iteration {points[-1][0]}")
        labelled.add(label)
    axes.set_xlabel("iteration")
    axes.grid(alpha=0.3)
    legend(axes)


def _thinned(points: np.ndarray) -> np.ndarray:
    if len(points) > POINTS:
        points = np.array([part.mean(axis=0) for part in np.array_split(points, POINTS)])
    return points.T


def _bars(axes: Axes, comparison: Comparison, names: Mapping[str, str]) -> None:
    """Bars of the metric that is the mean over each group."""
    groups = [group for group in comparison.groups if group in names]
    width = 0.8 / len(comparison.methods)
    for position, method in enumerate(comparison.methods):
        for place, group in enumerate(groups):
            found = comparison.metrics[names[group]].spreads[position]
            bars = axes.bar(
                place + (position + 0.5) * width - 0.4,
                found.mean,
                width,
                yerr=None if np.isnan(found.deviation) else float(found.deviation),
                error_kw={"ecolor": "0.5"},
                color=run_color(position),
                label=None if place else plain_label(method.label),
            )
            explain(bars[0], f"{names[group]}, {method.label}: {value_text(found)}")
    labels = [f"{group}\n{len(comparison.groups[group])} classes" for group in groups]
    axes.set_xticks(range(len(groups)), labels)
    axes.set_ylabel("percent")
    axes.set_ylim(bottom=0)
    legend(axes)


def _class_text(comparison: Comparison, metric: str, position: int, index: int) -> str:
    values = comparison.classes[metric]
    texts = [
        f"{method.label} {value_text(found, index)}"
        for method, found in zip(comparison.methods, values.spreads, strict=True)
    ]
    name = comparison.evaluation.class_names[index]
    group = comparison.group_of(index)
    if values.differences:
        texts = [texts[0], texts[position + 1]]
        name += f": {difference_text(values.differences[position], index)}"
    count = f"{comparison.counts[index]:,} {FREQUENCIES[comparison.frequency][1]}"
    return "\n".join([name, *texts, f"{count}, {group}" if group else count])


def _class_bars(
    axes: Axes, comparison: Comparison, values: np.ndarray, texts: Sequence[str], metric: str
) -> None:
    names = comparison.evaluation.class_names
    unit = FREQUENCIES[comparison.frequency][1]
    order, frequency = sorted_class_axis(axes, names, comparison.counts, unit)
    frequency.minorticks_off()
    for place, index in enumerate(order):
        if not np.isnan(values[index]):
            bars = axes.bar(
                place, values[index], 0.7, color=group_color(comparison.group_of(index))
            )
            explain(bars[0], texts[index])
    _finish_classes(axes, comparison, metric)


def _class_points(
    axes: Axes, comparison: Comparison, values: np.ndarray, texts: Sequence[str], metric: str
) -> None:
    for index in comparison.order:
        if not np.isnan(values[index]):
            [point] = axes.plot(
                comparison.counts[index],
                values[index],
                "o",
                markersize=4,
                markeredgewidth=0,
                alpha=0.75,
                color=group_color(comparison.group_of(index)),
            )
            explain(point, texts[index])
    count_axis(axes, comparison.counts, FREQUENCIES[comparison.frequency][1])
    axes.grid(alpha=0.3)
    _finish_classes(axes, comparison, metric)


def _finish_classes(axes: Axes, comparison: Comparison, metric: str) -> None:
    axes.axhline(0, color="0.5", linewidth=0.8)
    several = len(comparison.methods) > 1
    axes.set_ylabel(f"{metric}, points gained" if several else f"{metric}, percent")
    for group in comparison.groups:
        axes.plot([], [], "s", color=group_color(group), label=plain_label(group))
    if comparison.groups:
        legend(axes)


def _matrix(axes: Axes, percent: np.ndarray, names: Sequence[str]) -> None:
    # Rare confusions are seen next to what is right.
    image = axes.imshow(
        np.nan_to_num(percent), cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="none"
    )
    axes.figure.colorbar(image, shrink=0.7, label="percent of the ground truth")
    for row, column in _largest(percent):
        cell = Rectangle((column - 0.5, row - 0.5), 1, 1, alpha=0, linewidth=0)
        axes.add_patch(cell)
        explain(cell, f"{names[row]} taken for {names[column]}: {percent[row, column]:.1f} %")
    axes.set(xlabel="prediction", ylabel="ground truth")
    if len(names) <= MOST_NAMES:
        shown = [short_name(name) for name in names]
        size = 7 if len(names) > 20 else 8
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), shown, fontsize=size)


def _largest(percent: np.ndarray) -> Iterator[tuple[int, int]]:
    flat = np.nan_to_num(percent).ravel()
    for index in np.argsort(-flat, kind="stable")[:CELLS]:
        if flat[index] > 0:
            yield divmod(int(index), len(percent))
