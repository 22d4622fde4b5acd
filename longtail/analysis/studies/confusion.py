# SPDX-License-Identifier: Apache-2.0
"""Confusion between classes and between groups of a run.

Shapes: K classes, G groups.
"""

from typing import Any

import numpy as np
import scipy.sparse
from matplotlib.axes import Axes
from tabulate import tabulate

from longtail.analysis.choices import FREQUENCIES
from longtail.analysis.confusion import (
    arranged,
    confused_pairs,
    group_confusion,
    truth_percent,
)
from longtail.analysis.evaluations import Evaluation
from longtail.analysis.gain import frequency_order
from longtail.analysis.runs import Run
from longtail.analysis.study import (
    Study,
    choose_evaluation,
    class_counts,
    known_frequencies,
    ordered_groups,
    run_values,
)
from longtail.visualization.figures import MOST_NAMES, new_figure, short_name

# Rows of the picture; it has no more dots for them.
MOST_ROWS = 600


def confusion_of(evaluation: Evaluation) -> scipy.sparse.coo_array:
    """The confusion matrix of an evaluation, (K, K) counts, rows = ground truth.

    Args:
        evaluation: of semantic segmentation or image classification.

    Raises:
        ValueError: the task has none, or its file is damaged.
    """
    matrix = evaluation.confusion()
    if matrix is None:
        raise ValueError(
            f"{evaluation.path}: detection has no confusion matrix, name a run of semantic "
            "segmentation or image classification"
        )
    return matrix


def study_confusion(run: Run, number: int = 20, dataset: str = "") -> Study:
    """Find the classes that a run confuses most, and whether the tail is taken for the head.

    Args:
        run: of semantic segmentation or image classification.
        number: of pairs.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: there is no confusion matrix, or ``number`` is below 1.
    """
    if number < 1:
        raise ValueError(f"--pairs must be 1 or more, got {number}")
    evaluation = choose_evaluation(run, dataset)
    confusion = confusion_of(evaluation)
    names, groups = evaluation.class_names, ordered_groups(evaluation)
    known = known_frequencies(evaluation)
    # Without training counts by the ground truth of the test set.
    counts = class_counts(evaluation, known[0]) if known else confusion.sum(axis=1)
    unit = FREQUENCIES[known[0]][1] if known else "ground truth in testing"
    order = frequency_order(counts)
    pairs = [
        {**pair, "truth": names[pair["truth"]], "predicted": names[pair["predicted"]]}
        for pair in confused_pairs(confusion, number)
    ]
    of_groups = group_confusion(confusion, groups)
    figure, axes = new_figure(1, 3 if groups else 2, 6.4, 5.6)
    _draw_pairs(axes[0, 0], pairs)
    percent = truth_percent(arranged(confusion, order, MOST_ROWS))
    _draw_matrix(axes[0, 1], percent, names, order, unit)
    if groups:
        _draw_groups(axes[0, 2], of_groups, list(groups))
    figure.suptitle(f"{run.name}, {evaluation.dataset}")
    counted = "pixels" if evaluation.task == "sem_seg" else "images"
    headers = ["ground truth", "predicted as", counted, "% of ground truth"]
    rows = [[p["truth"], p["predicted"], p["count"], p["percent"]] for p in pairs]
    text = "no class is confused with another"
    if rows:
        text = tabulate(rows, headers=headers, floatfmt=".2f", intfmt=",", disable_numparse=[0, 1])
    if groups:
        text += f"\n\n{_group_table(of_groups, list(groups))}"
    values = {
        **run_values([run], evaluation),
        "pairs": pairs,
        "groups": {"names": list(groups), **of_groups},
        "classes": list(names),
        # Nearly all of thousands of classes are not confused.
        "confusion": {
            "truth": confusion.row,
            "predicted": confusion.col,
            "count": confusion.data,
        },
    }
    return Study("confusion", values, text, figure)


def _group_table(of_groups: dict[str, np.ndarray], names: list[str]) -> str:
    rows = [
        [name, right, *predicted]
        for name, right, predicted in zip(names, *of_groups.values(), strict=True)
    ]
    headers = ["% of ground truth", "right", *(f"wrong, {name}" for name in names)]
    return tabulate(rows, headers=headers, floatfmt=".2f", disable_numparse=[0])


def _draw_pairs(ax: Axes, pairs: list[dict[str, Any]]) -> None:
    labels = [f"{short_name(p['truth'])} → {short_name(p['predicted'])}" for p in pairs]
    ax.barh(range(len(pairs)), [p["percent"] for p in pairs], color="tab:red", alpha=0.8)
    ax.set_yticks(range(len(pairs)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("% of the ground truth of the first class")
    ax.set_title("most confused: ground truth → prediction")


def _draw_matrix(
    ax: Axes, percent: np.ndarray, names: tuple[str, ...], order: np.ndarray, unit: str
) -> None:
    # Of 1,000 classes nothing below a percent would be seen on a linear scale.
    edges = (-0.5, len(names) - 0.5, len(names) - 0.5, -0.5)
    mapped = {"cmap": "Blues", "vmin": 0, "vmax": 10, "interpolation": "nearest"}
    image = ax.imshow(np.sqrt(percent), extent=edges, **mapped)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, label="% of ground truth")
    levels = (0, 1, 5, 10, 25, 50, 100)
    bar.set_ticks([level**0.5 for level in levels], labels=[str(level) for level in levels])
    if len(names) <= MOST_NAMES:
        shown = [short_name(names[index]) for index in order]
        ax.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
        ax.set_yticks(range(len(names)), shown, fontsize=7)
    ax.set_xlabel("predicted")
    ax.set_ylabel("ground truth")
    ax.set_title(f"classes, sorted by {unit}")


def _draw_groups(ax: Axes, of_groups: dict[str, np.ndarray], names: list[str]) -> None:
    # One more column in front: the right ones.
    percent = np.column_stack([of_groups["right"], of_groups["predicted"]])
    image = ax.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="% of ground truth")
    for (row, column), value in np.ndenumerate(percent):
        color = "white" if value > 50 else "black"
        ax.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    ax.set_xticks(range(1 + len(names)), ["right", *(f"wrong,\n{name}" for name in names)])
    ax.set_yticks(range(len(names)), names)
    ax.set_ylabel("group of the ground truth")
    ax.set_title("groups")
