# SPDX-License-Identifier: Apache-2.0
"""Bars of the classes, the most frequent first, of several methods, with the classes' frequency.

Shapes: K classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from longtail.visualization.figures import legend_above, run_color, sorted_class_axis

# Of the place of a class, what the bars of all methods take together.
_WIDTH = 0.82


def draw_class_bars(
    axes: Axes,
    names: Sequence[str],
    counts: npt.ArrayLike,
    values: Mapping[str, npt.ArrayLike],
    *,
    unit: str,
    title: str,
) -> None:
    """Draw a metric of every class, a bar a method, before the class's frequency in grey.

    Args:
        axes: empty.
        names: K class names.
        counts: (K,) how often each occurs in training.
        values: (K,) percent by the name of the method; NaN for no bar.
        unit: what is counted, such as ``training images``.
        title: of the panel.

    Raises:
        ValueError: a method has another number of classes.
    """
    for method, of_classes in values.items():
        if len(of_classes) != len(names):
            raise ValueError(f"{method} has {len(of_classes)} values, expected {len(names)}")
    order, _ = sorted_class_axis(axes, names, counts, unit)
    width = _WIDTH / len(values)
    for index, (method, of_classes) in enumerate(values.items()):
        offset = (index - (len(values) - 1) / 2) * width
        heights = np.asarray(of_classes, dtype=np.float64)[order]
        places = np.arange(len(order)) + offset
        axes.bar(places, heights, width, label=method, color=run_color(index))
    axes.set_ylim(0, 100)
    axes.set_ylabel("percent")
    axes.tick_params(axis="x", rotation=0)
    legend_above(axes, title)
