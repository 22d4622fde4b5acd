# SPDX-License-Identifier: Apache-2.0
"""Remark 1 of Region Rebalance for every class of finished runs: tables, a picture, values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from tabulate import tabulate

from longtail.analysis.evaluations import Evaluation
from longtail.analysis.gain import frequency_order
from longtail.analysis.runs import Run
from longtail.analysis.studies.confusion import confusion_of
from longtail.analysis.study import (
    FREQUENCIES,
    Study,
    choose_evaluations,
    class_counts,
    known_frequencies,
    run_labels,
    run_values,
)
from longtail.visualization.figures import draw_bars, new_figure, plain_numbers, sorted_class_axis
from region_rebalance.conditions import (
    compare_violations,
    iou_conditions,
    summarize_conditions,
)

COLORS = {"holds": "tab:green", "violated": "tab:red"}
Conditions = dict[str, np.ndarray]


def study_conditions(baseline: Run, methods: Sequence[Run], dataset: str = "") -> Study:
    """Check Remark 1 for one or two runs over a baseline.

    Args:
        baseline: before rebalancing.
        methods: after it, one or two runs.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: a run is not of semantic segmentation, or the runs are of different test sets.
    """
    runs = (baseline, *methods)
    evaluations = choose_evaluations(runs, dataset)
    first = evaluations[0]
    if first.task != "sem_seg":
        raise ValueError(
            f"{first.path} is of the task {first.task}: the condition is of IoU, name runs of "
            "semantic segmentation"
        )
    before, *after = (confusion_of(evaluation).toarray() for evaluation in evaluations)
    labels = run_labels(runs)[1:]
    conditions = {
        label: iou_conditions(before, matrix) for label, matrix in zip(labels, after, strict=True)
    }
    counts, unit = _counts(first, before)
    order = frequency_order(counts)
    figure, axes = new_figure(len(conditions), 1, 11, 3.8)
    for (label, found), [ax] in zip(conditions.items(), axes, strict=True):
        _draw(ax, found, first, counts, unit)
        ax.set_title(f"{label}: {_sentence(found)}")
    parts = [_class_table(label, found, first, order) for label, found in conditions.items()]
    parts.append(_summary_table(conditions))
    values = {
        **run_values(runs, first),
        "conditions": {
            label: {
                "summary": summarize_conditions(found),
                "classes": [
                    {"name": first.class_names[i], **{key: v[i] for key, v in found.items()}}
                    for i in order
                ],
            }
            for label, found in conditions.items()
        },
    }
    if len(labels) == 2:
        values["violations"] = counted = compare_violations(*conditions.values())
        names = dict(zip(counted, (*labels, "both", "neither"), strict=True))
        parts.append(
            tabulate(
                [[names[key], number] for key, number in counted.items()],
                headers=["violated by", "classes"],
                disable_numparse=[0],
            )
        )
    return Study("conditions", values, "\n\n".join(parts), figure)


def _counts(evaluation: Evaluation, confusion: np.ndarray) -> tuple[np.ndarray, str]:
    known = known_frequencies(evaluation)
    if not known:
        return confusion.sum(axis=1), "pixels in testing"
    return class_counts(evaluation, known[0]), FREQUENCIES[known[0]][1]


def _sentence(found: Conditions) -> str:
    summary = summarize_conditions(found)
    return (
        f"of {summary['applies']} classes with more accuracy, or the same, the condition holds "
        f"for {summary['holds']}"
    )


def _class_table(label: str, found: Conditions, evaluation: Evaluation, order: np.ndarray) -> str:
    rows = []
    for i in order:
        verdict = "yes" if found["holds"][i] else "NO" if found["applies"][i] else "-"
        gain = _rounded(100 * found["gain"][i], 1)
        left, right = (_rounded(found[key][i], 0) for key in ("left", "right"))
        rows.append(
            [
                evaluation.class_names[i],
                gain,
                *(f"{found[k][i]:,}" for k in ("false_positives", "false_positives_after")),
                f"{found['pixels'][i]:,}",
                left,
                right,
                verdict,
                f"{100 * found['iou'][i]:.2f}",
                f"{100 * (found['iou_after'][i] - found['iou'][i]):+.2f}",
            ]
        )
    headers = [label, "K, %", "FP", "FP_r", "n_y", "FP_r-(1+K)FP", "K n_y", "holds", "IoU", "ΔIoU"]
    alignment = ["left", *["right"] * 9]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=alignment)


def _rounded(value: float, digits: int) -> str | None:
    """A number without the minus sign of one that rounds to 0; None for NaN."""
    return None if np.isnan(value) else f"{round(value, digits) + 0.0:,.{digits}f}"


def _summary_table(conditions: dict[str, Conditions]) -> str:
    rows = [[label, *summarize_conditions(found).values()] for label, found in conditions.items()]
    headers = ["condition", "classes", "applies", "holds", "violated", "violated, yet IoU rose"]
    return tabulate(rows, headers=headers, disable_numparse=[0])


def _draw(
    ax: Axes, found: Conditions, evaluation: Evaluation, counts: np.ndarray, unit: str
) -> None:
    """Draw by how much the condition holds or is violated, as a share of n_y, in percent."""
    order, _ = sorted_class_axis(ax, evaluation.class_names, counts, unit)
    with np.errstate(invalid="ignore", divide="ignore"):
        margin = 100 * (found["right"] - found["left"]) / found["pixels"]
    margin = np.where(found["applies"], margin, np.nan)[order]
    colors = np.where(found["holds"][order], COLORS["holds"], COLORS["violated"])
    # A rare class gets many times its own pixels as false positives.
    ax.set_yscale("symlog", linthresh=10)
    draw_bars(ax, margin, 0.8, colors)
    plain_numbers(ax)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_ylabel("K n_y - (FP_r - (1+K) FP)\n% of n_y")
    ax.legend(handles=[Patch(color=color, label=name) for name, color in COLORS.items()])
