# SPDX-License-Identifier: Apache-2.0
"""Per-class gain of a run over another: Figures 3 and 6 of the Region Rebalance paper.

Shapes: K classes.
"""

import numpy as np
from matplotlib.axes import Axes
from tabulate import tabulate

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.gain import class_gain, frequency_order, gain_summary, largest_changes
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
from longtail.visualization.figures import draw_bars, new_figure, plain_numbers, sorted_class_axis

UP = "tab:green"
DOWN = "tab:red"
# Classes of the table that gained and that lost most.
LISTED = 5


def study_gain(baseline: Run, other: Run, sort_by: str = "", dataset: str = "") -> Study:
    """Compare two runs class by class: Eq. 4 and 5.

    Args:
        baseline: the run that is subtracted.
        other: the run whose gain it is.
        sort_by: a key of :data:`~longtail.analysis.choices.FREQUENCIES`; by default pixels if they
            are known, otherwise regions or images.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: the runs are of different test sets, or the counts are not known.
    """
    runs = (baseline, other)
    before, after = choose_evaluations(runs, dataset)
    known = known_frequencies(before)
    sort_by = sort_by or (known or ["images"])[0]
    counts, unit = class_counts(before, sort_by), FREQUENCIES[sort_by][1]
    names, groups = before.class_names, ordered_groups(before)
    gains = {
        metric: class_gain(values, after.per_class[metric])
        for metric, values in before.per_class.items()
    }
    summaries = {metric: gain_summary(gain, groups) for metric, gain in gains.items()}
    figure, axes = new_figure(len(gains), 1, 10, 3.6)
    title = " - ".join(reversed(run_labels(runs)))
    for (metric, gain), [ax] in zip(gains.items(), axes, strict=True):
        draw_gain(ax, gain, names, counts, unit)
        ax.set_ylabel(f"Δ{metric} (points)")
        ax.set_title(f"{title}: Δ{metric}, mean {summaries[metric]['mean']:+.2f}")
    classes = [
        {
            "name": names[index],
            sort_by: counts[index],
            **{
                metric: {
                    "before": before.per_class[metric][index],
                    "after": after.per_class[metric][index],
                    "gain": gain[index],
                }
                for metric, gain in gains.items()
            },
        }
        for index in frequency_order(counts)
    ]
    values = {
        **run_values(runs, before),
        "sorted_by": sort_by,
        "summary": summaries,
        "classes": classes,
    }
    text = "\n\n".join(
        [
            _summary_table(summaries),
            *(_changes(m, g, names, counts, unit) for m, g in gains.items()),
        ]
    )
    return Study("gain", values, text, figure)


def draw_gain(
    ax: Axes, gain: np.ndarray, names: tuple[str, ...], counts: np.ndarray, unit: str
) -> None:
    """Draw a bar for every class, the most frequent first, in front of its frequency.

    Args:
        ax: an empty panel.
        gain: (K,), NaN for a class without a bar.
        names: K class names.
        counts: (K,) how often a class occurs.
        unit: what is counted.
    """
    order, _ = sorted_class_axis(ax, names, counts, unit)
    colors = np.where(gain[order] > 0, UP, DOWN)
    draw_bars(ax, gain[order], 0.8, colors)
    ax.axhline(0, color="black", linewidth=0.8)
    plain_numbers(ax)


def _summary_table(summaries: dict[str, dict]) -> str:
    rows = [
        [
            metric,
            summary["mean"],
            *summary["groups"].values(),
            summary["rose"],
            summary["fell"],
            summary["same"],
        ]
        for metric, summary in summaries.items()
    ]
    groups = next(iter(summaries.values()))["groups"]
    headers = ["gain in points", "mean", *groups, "classes up", "down", "same"]
    formats = ["", *["+.2f"] * (1 + len(groups)), "", "", ""]
    return tabulate(rows, headers=headers, floatfmt=formats, disable_numparse=[0])


def _changes(
    metric: str, gain: np.ndarray, names: tuple[str, ...], counts: np.ndarray, unit: str
) -> str:
    rank = np.empty(len(counts), dtype=np.int64)
    rank[frequency_order(counts)] = np.arange(1, len(counts) + 1)
    rising, falling = largest_changes(gain, LISTED)
    rows = [
        [names[index], gain[index], f"{counts[index]:,}", rank[index]]
        for index in [*rising, *falling[::-1]]
    ]
    if not rows:
        return f"Δ{metric}: no class has changed"
    headers = [f"Δ{metric}, most up and down", "points", unit, "rank"]
    return tabulate(
        rows,
        headers=headers,
        floatfmt="+.2f",
        disable_numparse=[0, 2],
        colalign=("left", "right", "right", "right"),
    )
