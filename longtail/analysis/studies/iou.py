# SPDX-License-Identifier: Apache-2.0
"""IoU against accuracy for constant FP/TP: Figure 8 of the Region Rebalance paper.

Shapes: K classes.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from tabulate import tabulate

from longtail.analysis.iou import false_positive_ratio, iou_of_accuracy
from longtail.analysis.runs import Run
from longtail.analysis.studies.confusion import confusion_of
from longtail.analysis.study import Study, choose_evaluations, run_labels, run_values
from longtail.visualization.figures import legend_above, new_figure, run_color

# b = FP/TP of the curves: where IoU follows accuracy, and where it does not.
SMALL = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGE = (3.0, 5.0, 10.0, 20.0, 50.0)
STEPS = 101


def study_iou(runs: Sequence[Run] = (), dataset: str = "") -> Study:
    """Draw the curves of Eq. 17, and on them the classes of runs.

    Args:
        runs: of semantic segmentation, on one test set; none draws the curves alone.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: a run is of another task, or the runs are of different test sets.
    """
    evaluations = choose_evaluations(runs, dataset) if runs else []
    for evaluation in evaluations:
        if evaluation.task != "sem_seg":
            raise ValueError(
                f"{evaluation.path} is of the task {evaluation.task}: IoU is of semantic "
                "segmentation, name such runs"
            )
    accuracy = np.linspace(0, 1, STEPS)
    values = {
        **(run_values(runs, evaluations[0]) if runs else {}),
        "accuracy": accuracy,
        "curves": [{"ratio": b, "iou": iou_of_accuracy(accuracy, b)} for b in (*SMALL, *LARGE)],
    }
    figure, axes = new_figure(1, 2, 6, 5)
    for ax, ratios in zip(axes[0], (SMALL, LARGE), strict=True):
        _draw_curves(ax, accuracy, ratios)
    classes, rows = {}, []
    for number, (label, e) in enumerate(zip(run_labels(runs), evaluations, strict=True)):
        ratio = false_positive_ratio(confusion_of(e).toarray())
        iou, acc = e.per_class["IoU"], e.per_class["Acc"]
        # Between the panels lies b = 2.
        for ax, chosen in zip(axes[0], (ratio < 2, ratio >= 2), strict=True):
            dots = {"s": 14, "color": run_color(number), "alpha": 0.7, "linewidths": 0}
            ax.scatter(acc[chosen] / 100, iou[chosen] / 100, zorder=3, label=label, **dots)
        classes[label] = [
            {"name": name, "Acc": acc[i], "IoU": iou[i], "ratio": ratio[i]}
            for i, name in enumerate(e.class_names)
        ]
        known = ratio[~np.isnan(ratio)]
        median = float(np.median(known)) if len(known) else float("nan")
        rows.append([label, len(known), median, *(int(f) for f in _bins(known))])
    for ax in axes[0] if runs else ():
        legend_above(ax, ax.get_title())
    if runs:
        headers = ["FP/TP of classes", "classes", "median", "0 to 1", "1 to 3", "from 3"]
        text = tabulate(rows, headers=headers, floatfmt=".2f", disable_numparse=[0])
    else:
        rows = [[b, *iou_of_accuracy([0.2, 0.4, 0.6, 0.8, 1], b)] for b in (*SMALL, *LARGE)]
        headers = ["FP/TP", *(f"IoU at Acc {acc}" for acc in (0.2, 0.4, 0.6, 0.8, 1.0))]
        text = tabulate(rows, headers=headers, floatfmt=["g", *[".3f"] * 5])
    return Study("iou", {**values, "classes": classes}, text, figure)


def _bins(ratio: np.ndarray) -> tuple[int, int, int]:
    return (ratio <= 1).sum(), ((ratio > 1) & (ratio < 3)).sum(), (ratio >= 3).sum()


def _draw_curves(ax: Axes, accuracy: np.ndarray, ratios: tuple[float, ...]) -> None:
    for b in ratios:
        curve = iou_of_accuracy(accuracy, b)
        ax.plot(accuracy, curve, color="0.55", linewidth=1.2)
        ax.annotate(
            f"b = {b:g}", (1, curve[-1]), xytext=(4, 0), textcoords="offset points", va="center"
        )
    ax.set_xlim(0, 1.2)
    ax.set_ylim(0, 1.03 * iou_of_accuracy(1.0, ratios[0]))
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_xlabel("Acc")
    ax.set_ylabel("IoU")
    ax.set_title(f"IoU = 1 / (1/Acc + b), b = FP/TP from {ratios[0]:g} to {ratios[-1]:g}")
