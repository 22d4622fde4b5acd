# SPDX-License-Identifier: Apache-2.0
"""The frame that all figures of analyses share: files, plain numbers, classes by frequency.

Shapes: K classes.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from matplotlib.typing import ColorType

from longtail.utils.io import atomic_write

DPI = 110
# From the most frequent group to the rarest; each task has its own names.
GROUP_COLORS = {
    **dict.fromkeys(("frequent", "f", "head", "many"), "tab:blue"),
    **dict.fromkeys(("common", "c", "body", "medium"), "tab:orange"),
    **dict.fromkeys(("rare", "r", "tail", "few"), "tab:red"),
    "background": "tab:gray",
}
# Colours of runs, in their order.
RUN_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
FREQUENCY_COLOR = "0.86"
# More class names than this cannot be read below an axis.
MOST_NAMES = 40
LONGEST_NAME = 18
LEGEND_COLUMNS = 3


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """An empty figure, of no window and no global state.

    Args:
        rows: of panels.
        columns: of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.

    Returns:
        The figure, and its (rows, columns) axes.
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure, atomically.

    Args:
        figure: of matplotlib.
        path: ends with ``.png`` or ``.svg``; an SVG keeps its text as text.
    """
    kind = Path(path).suffix[1:]
    # The same figure gives the same file.
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "longtail"}),
        atomic_write(path, "wb") as file,
    ):
        figure.savefig(file, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else {})


def plain_numbers(axes: Axes) -> None:
    """Label the y-axis with the numbers themselves: 1.0002, not 0.0002 above an offset, not 10^3.

    Args:
        axes: whose scale is set already.
    """
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axes.yaxis.set_major_formatter(formatter)


def legend_above(axes: Axes, title: str) -> None:
    """Add a title and, below it, a legend that covers no value.

    Args:
        axes: with labelled values.
        title: of the panel.
    """
    entries = len(axes.get_legend_handles_labels()[1])
    columns = min(entries, LEGEND_COLUMNS)
    axes.legend(
        fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=columns, frameon=False
    )
    # In points, as many as the lines of the legend.
    axes.set_title(title, pad=8 + 13 * math.ceil(entries / columns))


def run_color(index: int) -> str:
    """The colour of a run by its position; they repeat from the seventh on."""
    return RUN_COLORS[index % len(RUN_COLORS)]


def short_name(name: str) -> str:
    """A class name as it is written at an axis.

    Dollar signs are no formulas there.
    """
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return name.replace("$", r"\$")


def sorted_class_axis(
    axes: Axes, names: Sequence[str], counts: npt.ArrayLike, unit: str
) -> tuple[np.ndarray, Axes]:
    """Make the x-axis one of classes, the most frequent first, with their frequency in grey.

    Args:
        axes: empty; values of classes are drawn at 0..K-1.
        names: K class names.
        counts: (K,) how often each occurs; a class that does not is drawn without a bar.
        unit: what is counted, for labels, such as ``training pixels``.

    Returns:
        The class indices in the axis' order, and the axes of the frequency.
    """
    counts = np.asarray(counts, dtype=np.float64)
    order = np.argsort(-counts, kind="stable")
    frequency = axes.twinx()
    positions = np.arange(len(order))
    shown = np.where(counts > 0, counts, np.nan)[order]
    if (counts > 0).any():
        frequency.set_yscale("log")
    draw_bars(frequency, shown, 1.0, FREQUENCY_COLOR)
    frequency.set_ylabel(unit, color="0.5")
    frequency.tick_params(axis="y", which="both", colors="0.5")
    # Values in front of the frequency.
    axes.set_zorder(frequency.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set_xlim(-0.6, len(order) - 0.4)
    if len(order) <= MOST_NAMES:
        axes.set_xticks(positions, [short_name(names[index]) for index in order], rotation=90)
        axes.tick_params(axis="x", labelsize=8)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"classes, sorted by {unit}")
    return order, frequency


def draw_bars(
    axes: Axes, values: npt.ArrayLike, width: float, colors: ColorType | Sequence[ColorType]
) -> None:
    """Draw bars at 0..K-1 as one artist: a bar each takes half a minute for 8,142 classes.

    Args:
        axes: whose scale is set already; on a logarithmic one bars start below the shortest.
        values: (K,) heights; NaN for no bar.
        width: of a bar.
        colors: one, or K.
    """
    values = np.asarray(values, dtype=np.float64)
    base = np.nanmin(values, initial=np.inf) / 2 if axes.get_yscale() == "log" else 0.0
    left = np.arange(len(values)) - width / 2
    bottom = np.full(len(values), base)
    corners = ((left, bottom), (left, values), (left + width, values), (left + width, bottom))
    bars = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
    drawn = PolyCollection(bars, facecolors=colors, linewidth=0)
    # They stand on the axis.
    drawn.sticky_edges.y.append(base)
    axes.add_collection(drawn)
    axes.autoscale_view()


def running_mean(values: npt.ArrayLike, window: int) -> np.ndarray:
    """Average every value with its neighbours.

    Args:
        values: (K,); NaN ones are left out.
        window: how many values enter, an odd number; fewer at both ends.

    Returns:
        (K,) float64, NaN where a window has no value.
    """
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    kernel = np.ones(window)
    # "same" is as long as the longer of the two.
    half, size = window // 2, len(values)
    total = np.convolve(np.where(known, values, 0), kernel)[half : half + size]
    number = np.convolve(known.astype(np.float64), kernel)[half : half + size]
    return np.divide(total, number, out=np.full(size, np.nan), where=number > 0)


def smoothing_window(num_classes: int) -> int:
    """How many neighbours a curve over classes is averaged over: 1 up to 40, then a 20th, odd."""
    return 1 if num_classes <= MOST_NAMES else num_classes // 20 // 2 * 2 + 1
