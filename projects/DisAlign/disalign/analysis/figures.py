# SPDX-License-Identifier: Apache-2.0
"""Pictures of calibrations: Figure 6 of the DisAlign paper's supplement, and of a run's history."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from disalign.analysis.calibrations import START, SigmaByGroup, Task
from longtail.visualization.figures import GROUP_COLORS, new_figure, plain_numbers

# Lines of single classes are drawn up to this number; of more, only the means of groups.
MOST_LINES = 200
NO_GROUP = "tab:green"


def draw_calibrations(stages: list[dict[str, Any]], task: Task) -> Figure:
    """One row of panels for each calibrated classifier: alpha, beta, sigma.

    Args:
        stages: ``classes``, of :func:`~.calibrations.class_values`, ``sigma``, values by group,
            and ``learned``, whether each of ``alpha``, ``beta`` and ``sigma`` is.
        task: for labels.
    """
    figure, axes = new_figure(len(stages), 3, 4.4, 3.8)
    for number, (stage, (left, middle, right)) in enumerate(zip(stages, axes, strict=True)):
        which = f" (stage {number})" if len(stages) > 1 else ""
        for ax, key in ((left, "alpha"), (middle, "beta")):
            _draw_classes(ax, stage["classes"], key, task)
            ax.set_title(_title(key, stage["learned"][key]) + which)
        left.legend(fontsize=8)
        _draw_sigma(right, stage["sigma"], task)
        sigma = f"sigma(x) of {task.samples}"
        right.set_title((sigma if stage["learned"]["sigma"] else f"{sigma}, not learned") + which)
    return figure


def _title(key: str, is_learned: bool) -> str:
    return f"learned {key}" if is_learned else f"{key}, not learned"


def _draw_classes(ax: Axes, classes: list[dict[str, Any]], key: str, task: Task) -> None:
    """One value of every class against its frequency."""
    groups = dict.fromkeys([*GROUP_COLORS, *(row["group"] for row in classes)])
    for group in groups:
        members = [row for row in classes if row["group"] == group]
        if members:
            counts, values = ([row[name] for row in members] for name in (task.counted, key))
            color = GROUP_COLORS.get(group, NO_GROUP)
            ax.scatter(counts, values, s=14, alpha=0.7, color=color, linewidths=0, label=group)
    ax.axhline(START[key], color="black", linewidth=0.8, linestyle=":", label="identity")
    counts = [row[task.counted] for row in classes]
    if min(counts) > 0:
        ax.set_xscale("log")
    else:
        # A class that does not occur has its place at 0.
        ax.set_xscale("symlog", linthresh=1)
    if max(counts) < 100 * max(min(counts), 1):
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(task.unit)
    ax.set_ylabel(key)
    plain_numbers(ax)


def _draw_sigma(ax: Axes, sigma: SigmaByGroup, task: Task) -> None:
    """Box plots: median, quartiles, and whiskers from 5 % to 95 %."""
    boxes = ax.boxplot(
        list(sigma.values()), whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6
    )
    for box, group in zip(boxes["boxes"], sigma, strict=True):
        box.set(facecolor=GROUP_COLORS.get(group, NO_GROUP), alpha=0.6)
    for median in boxes["medians"]:
        median.set_color("black")
    labels = [f"{name}\n{EngFormatter(places=0, sep='')(len(v))}" for name, v in sigma.items()]
    ax.set_xticks(range(1, len(sigma) + 1), labels)
    ax.set_xlabel(f"group of the ground truth, number of {task.samples}")
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("sigma")


def draw_history(history: dict[str, Any], groups: dict[str, list[int]]) -> Figure:
    """Alpha and beta of every class over the iterations of the second stage, and of groups.

    Args:
        history: of :func:`~.calibrations.read_history`.
        groups: class indices by frequency group.
    """
    figure, axes = new_figure(len(history["stages"]), 2, 6, 3.8)
    for number, (stage, row) in enumerate(zip(history["stages"], axes, strict=True)):
        which = f" (stage {number})" if len(axes) > 1 else ""
        for ax, (key, values) in zip(row, stage.items(), strict=True):
            for group, indices in groups.items():
                if indices:
                    _draw_lines(ax, history["iterations"], values[:, indices], group)
            ax.set_title(f"{key}{which}: classes, and means of groups")
            ax.set_xlabel("iterations of the second stage")
            ax.set_ylabel(key)
            plain_numbers(ax)
        handles = [
            Line2D([], [], color=GROUP_COLORS.get(group, NO_GROUP), linewidth=2.4, label=group)
            for group, indices in groups.items()
            if indices
        ]
        row[0].legend(handles=handles, fontsize=8)
    return figure


def _draw_lines(ax: Axes, iterations: list[int], values: np.ndarray, group: str) -> None:
    color = GROUP_COLORS.get(group, NO_GROUP)
    if values.shape[1] <= MOST_LINES:
        ax.plot(iterations, values, color=color, linewidth=0.7, alpha=0.5)
    ax.plot(iterations, values.mean(axis=1), ".-", color=color, linewidth=2.4)
