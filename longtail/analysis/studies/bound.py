# SPDX-License-Identifier: Apache-2.0
"""The empirical bound of a representation: Figures 1 and 2 of the DisAlign paper.

Shapes: K classes.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from tabulate import tabulate

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.evaluations import Evaluation
from longtail.analysis.gain import frequency_order
from longtail.analysis.runs import Run
from longtail.analysis.study import (
    Study,
    choose_evaluations,
    class_counts,
    known_frequencies,
    ordered_groups,
    run_labels,
    run_values,
)
from longtail.evaluation.metrics import grouped_mean
from longtail.visualization.figures import (
    legend_above,
    new_figure,
    plain_numbers,
    run_color,
    running_mean,
    smoothing_window,
    sorted_class_axis,
)

# The per-class metric of a task that the others' are compared in.
METRICS = {"classification": "acc", "sem_seg": "IoU", "lvis": "box AP"}


def study_bound(baseline: Run, bound: Run, methods: Sequence[Run] = (), dataset: str = "") -> Study:
    """Compare a baseline and methods with their bound: the classifier retrained on balanced data.

    Args:
        baseline: trained on the long-tailed training set, whose counts and groups classes have.
        bound: the same representation, its classifier retrained on balanced data.
        methods: further runs, for bars.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: the runs are of different test sets, or the baseline's counts are not known.
    """
    runs = (baseline, bound, *methods)
    evaluations = choose_evaluations(runs, dataset)
    first, metric = evaluations[0], METRICS[evaluations[0].task]
    frequency = (known_frequencies(first) or ["images"])[0]
    counts, unit = class_counts(first, frequency), FREQUENCIES[frequency][1]
    groups, labels = ordered_groups(first), run_labels(runs)
    means = {
        label: {
            "average": float(np.nanmean(evaluation.per_class[metric])),
            **grouped_mean(evaluation.per_class[metric], groups),
        }
        for label, evaluation in zip(labels, evaluations, strict=True)
    }
    figure, axes = new_figure(1, 2, 7.5, 4.4)
    _draw_classes(axes[0, 0], labels, evaluations[:2], metric, counts, unit)
    _draw_bars(axes[0, 1], means, metric)
    figure.suptitle(f"empirical bound on {first.dataset}")
    top = means[labels[1]]
    rows = [[label, *row.values(), top["average"] - row["average"]] for label, row in means.items()]
    headers = [f"mean {metric} of classes, %", "all", *groups, "below the bound"]
    text = tabulate(rows, headers=headers, floatfmt=".2f", disable_numparse=[0])
    values = {
        **run_values(runs, first),
        "metric": metric,
        "means": means,
        "classes": [
            {
                "name": first.class_names[index],
                frequency: counts[index],
                **{
                    label: e.per_class[metric][index]
                    for label, e in zip(labels, evaluations, strict=True)
                },
            }
            for index in frequency_order(counts)
        ],
    }
    return Study("bound", values, text, figure)


def _draw_classes(
    ax: Axes,
    labels: list[str],
    evaluations: Sequence[Evaluation],
    metric: str,
    counts: np.ndarray,
    unit: str,
) -> None:
    order, _ = sorted_class_axis(ax, evaluations[0].class_names, counts, unit)
    window = smoothing_window(len(order))
    for number, evaluation in enumerate(evaluations):
        values = evaluation.per_class[metric][order]
        if window > 1:
            ax.plot(values, ".", color=run_color(number), markersize=3, alpha=0.25)
        curve = running_mean(values, window)
        ax.plot(curve, marker="." if window == 1 else "", color=run_color(number), linewidth=1.8)
        # Only the curve has an entry in the legend.
        ax.lines[-1].set_label(labels[number])
    mean = f", mean of {window} classes" if window > 1 else ""
    ax.set_ylabel(f"{metric} (%)")
    legend_above(ax, f"per class{mean}")
    plain_numbers(ax)


def _draw_bars(ax: Axes, means: dict[str, dict[str, float]], metric: str) -> None:
    columns = list(next(iter(means.values())))
    width = 0.8 / len(means)
    for number, (label, row) in enumerate(means.items()):
        left = np.arange(len(columns)) - 0.4 + width / 2 + number * width
        bars = ax.bar(left, list(row.values()), width, color=run_color(number), label=label)
        ax.bar_label(bars, fmt="%.1f", fontsize=7)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_ylabel(f"mean {metric} of classes (%)")
    ax.margins(y=0.1)
    legend_above(ax, "all classes and groups")
    plain_numbers(ax)
