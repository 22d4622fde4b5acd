# SPDX-License-Identifier: Apache-2.0
"""Imbalance of data sets: Figure 5 of the Region Rebalance paper.

Shapes: K classes.
"""

from collections.abc import Mapping

import numpy as np
from tabulate import tabulate

from longtail.analysis.gain import frequency_order
from longtail.analysis.study import Study
from longtail.data.statistics.class_stats import ClassStats, imbalance_factor
from longtail.visualization.figures import new_figure, run_color


def study_frequencies(data_sets: Mapping[str, ClassStats]) -> Study:
    """Compare how unbalanced data sets are, in pixels and in regions, or in what they count.

    Args:
        data_sets: class statistics by the name of a data set, one or more.
    """
    figure, axes = new_figure(1, len(data_sets), 6.5, 4)
    values, rows = {}, []
    for (name, stats), ax in zip(data_sets.items(), axes[0], strict=True):
        counts = _counts(stats)
        # The axis begins a little below the rarest class.
        lowest = min(c[c > 0].min() / c.max() for c in counts.values())
        factors = {unit: imbalance_factor(count) for unit, count in counts.items()}
        for number, (unit, count) in enumerate(counts.items()):
            ranked = count[frequency_order(count)]
            shares = np.where(ranked > 0, ranked / max(ranked[0], 1), np.nan)
            factor = factors[unit]
            label = f"{unit}, imbalance factor {factor:,.1f}"
            color = run_color(number)
            ax.stairs(shares, fill=True, alpha=0.2, baseline=lowest / 2, color=color)
            ax.stairs(shares, baseline=None, linewidth=1.8, color=color, label=label)
            rows.append([name, unit, len(count), ranked[0], ranked[-1], factor])
        ax.set_yscale("log")
        ax.set_ylim(lowest / 2, 1.3)
        ax.set_xlim(0, len(stats.class_names))
        ax.set_xlabel("classes, each count sorted by itself")
        ax.set_ylabel("share of the most frequent class")
        ax.set_title(f"{name}: {stats.num_images:,} images")
        ax.legend()
        values[name] = {**stats.to_dict(), "imbalance_factors": factors}
    headers = ["data set", "counted", "classes", "most frequent", "rarest", "imbalance factor"]
    text = tabulate(rows, headers=headers, floatfmt=".1f", intfmt=",", disable_numparse=[0])
    return Study("frequencies", {"data_sets": values}, text, figure)


def _counts(stats: ClassStats) -> dict[str, np.ndarray]:
    """The counts that a data set has, by what is counted."""
    images = "images"
    if stats.pixel_count is not None:
        images = "regions"
    counts = {
        "pixels": stats.pixel_count,
        images: stats.image_count,
        "instances": stats.instance_count,
    }
    return {unit: count for unit, count in counts.items() if count is not None}
