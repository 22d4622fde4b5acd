# SPDX-License-Identifier: Apache-2.0
"""Correlation of accuracy with frequency: Table 2 and Figure 4 of the Region Rebalance paper.

Shapes: K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from tabulate import tabulate

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.correlation import frequency_correlation
from longtail.analysis.gain import frequency_order
from longtail.analysis.published import ClassResults
from longtail.analysis.runs import Run
from longtail.analysis.study import (
    Study,
    choose_evaluations,
    class_counts,
    known_frequencies,
    run_labels,
    run_values,
)
from longtail.data.statistics.class_stats import ClassStats
from longtail.visualization.figures import (
    legend_above,
    new_figure,
    plain_numbers,
    run_color,
    running_mean,
    smoothing_window,
    sorted_class_axis,
)


@dataclass(frozen=True, eq=False)
class Measured:
    """Per-class results of one run, and how often its classes occur.

    Attributes:
        name: of the run.
        per_class: (K,) percent by metric.
        counts: (K,) by frequency, keys of :data:`~longtail.analysis.choices.FREQUENCIES`.
    """

    name: str
    per_class: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]


def study_correlation(runs: Sequence[Run], dataset: str = "") -> Study:
    """Correlate the per-class metrics of runs with all frequencies that are known: Eq. 6.

    Args:
        runs: one or more, of one test set.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: the runs are of different test sets, or no training counts are known.
    """
    evaluations = choose_evaluations(runs, dataset)
    frequencies = known_frequencies(evaluations[0]) or ["images"]
    measured = [
        Measured(label, e.per_class, {name: class_counts(e, name) for name in frequencies})
        for label, e in zip(run_labels(runs), evaluations, strict=True)
    ]
    return _study(measured, evaluations[0].class_names, run_values(runs, evaluations[0]))


def study_published(results: ClassResults, stats: ClassStats) -> Study:
    """Correlate published per-class results of segmentation with the counts of their training set.

    Args:
        results: what was published.
        stats: of ``results.trained_on``.
    """
    counts = {"pixels": stats.pixel_count, "regions": stats.image_count}
    measured = [Measured(name, per_class, counts) for name, per_class in results.runs.items()]
    values = {
        "subject": results.subject,
        "source": results.source,
        "trained_on": results.trained_on,
    }
    return _study(measured, results.class_names, values)


def _study(measured: list[Measured], names: tuple[str, ...], values: dict) -> Study:
    metrics, frequencies = measured[0].per_class, measured[0].counts
    coefficients = [
        {
            "run": run.name,
            "metric": metric,
            "frequency": frequency,
            **frequency_correlation(run.per_class[metric], run.counts[frequency]),
        }
        for run in measured
        for metric in metrics
        for frequency in frequencies
    ]
    classes = [
        {
            "name": name,
            **{run.name: {m: v[index] for m, v in run.per_class.items()} for run in measured},
            **{frequency: counts[index] for frequency, counts in frequencies.items()},
        }
        for index, name in enumerate(names)
    ]
    figure, axes = new_figure(len(metrics), len(frequencies), 6.5, 3.8)
    for metric, row in zip(metrics, axes, strict=True):
        for frequency, ax in zip(frequencies, row, strict=True):
            _draw(ax, measured, names, metric, frequency)
    rows = [list(row.values()) for row in coefficients]
    headers = ["run", "metric", "frequency", "Pearson %", "Spearman %", "classes"]
    text = tabulate(rows, headers=headers, floatfmt=".1f", disable_numparse=[0])
    values = {**values, "coefficients": coefficients, "classes": classes}
    return Study("correlation", values, text, figure)


def _draw(
    ax: Axes, measured: list[Measured], names: tuple[str, ...], metric: str, frequency: str
) -> None:
    """Draw a metric over classes, sorted by frequency: points, and a running mean for many."""
    unit = FREQUENCIES[frequency][1]
    counts = measured[0].counts[frequency]
    sorted_class_axis(ax, names, counts, unit)
    order, window = frequency_order(counts), smoothing_window(len(names))
    for number, run in enumerate(measured):
        values = run.per_class[metric][order]
        found = frequency_correlation(run.per_class[metric], run.counts[frequency])
        label = f"{run.name}: Pearson {found['pearson']:.1f} %"
        color = run_color(number)
        points = {"label": label, "markersize": 9} if window == 1 else {"markersize": 4}
        ax.plot(values, ".", color=color, alpha=0.6, **points)
        if window > 1:
            ax.plot(running_mean(values, window), color=color, linewidth=1.6, label=label)
    ax.set_ylabel(f"{metric} (%)")
    ax.set_ylim(-3, 103)
    legend_above(ax, f"{metric} over {unit}")
    plain_numbers(ax)
