# SPDX-License-Identifier: Apache-2.0
"""The frame of a report's figures: style, axes of counts, legends and colours of groups."""

from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from longtail.visualization.figures import GROUP_COLORS, new_figure
from longtail.visualization.hover import to_svg

_STYLE = {
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Drawing(NamedTuple):
    """A figure of a page."""

    title: str
    svg: str
    """An SVG element."""


def drawing(
    name: str, title: str, draw: Callable[..., None], *arguments: Any, height: float = 3.1
) -> Drawing:
    """Draw a figure with one panel.

    Args:
        name: of the figure, unlike that of any other figure of the page.
        title: of the figure.
        draw: is given the axes and the arguments.
        arguments: what is drawn.
        height: in inches.
    """
    with matplotlib.rc_context(_STYLE):
        figure, [[axes]] = new_figure(1, 1, 5.2, height)
        draw(axes, *arguments)
        return Drawing(title, to_svg(figure, name, title))


def group_color(group: str) -> str:
    """The colour of a group of classes; that of a class in none is blue."""
    return GROUP_COLORS.get(group, "tab:blue")


def count_axis(axes: Axes, counts: npt.ArrayLike, label: str) -> None:
    """A logarithmic x-axis, with 0 if a class does not occur."""
    if np.min(counts) > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel(label)


def legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


def plain_label(text: str) -> str:
    """A text in which dollar signs are no formulas; a leading _ would hide it in a legend."""
    return text.replace("$", r"\$").lstrip("_") or " "
