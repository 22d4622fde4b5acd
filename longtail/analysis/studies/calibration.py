# SPDX-License-Identifier: Apache-2.0
"""Reliability diagrams and calibration errors of a run, for each group of classes.

The definitions are those of :mod:`longtail.evaluation.calibration`. A prediction belongs to the
group of its predicted class.

Shapes: N predictions, K classes, B bins.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from tabulate import tabulate

from longtail.analysis.evaluations import Evaluation
from longtail.analysis.runs import Run
from longtail.analysis.study import Study, choose_evaluation, ordered_groups, run_values
from longtail.data.datasets.classes import class_order
from longtail.evaluation.calibration import BINS, Reliability, brier, class_errors, reliability
from longtail.evaluation.classification.predictions import FILE_NAME
from longtail.evaluation.judged import Judged, judge_saved
from longtail.evaluation.lvis.metrics import mean
from longtail.visualization.figures import FREQUENCY_COLOR, GROUP_COLORS, new_figure

FILES = {
    "classification": (FILE_NAME,),
    "lvis": ("lvis_instances_results.json", "coco_instances_results.json"),
}
ALL = "all"


def study_calibration(run: Run, dataset: str = "") -> Study:
    """Compare the scores of a run with how often they are right.

    Args:
        run: of detection, or of image classification with saved predictions.
        dataset: the test set; by default the only one, or the first.

    Raises:
        ValueError: the run has no predictions with scores, or they cannot be judged.
        OSError: the test set is not on this machine.
    """
    evaluation = choose_evaluation(run, dataset)
    judged = judge_saved(evaluation.dataset, str(_file(evaluation)))
    # The report's class of each class index.
    place = class_order(
        judged.class_names, evaluation.class_names, evaluation.dataset, str(evaluation.path)
    )
    reported = np.array(place)[judged.classes]
    groups = {
        name: np.isin(reported, members) for name, members in ordered_groups(evaluation).items()
    }
    errors = class_errors(reported, judged.scores, judged.hits, len(evaluation.class_names))
    members = {ALL: range(len(errors)), **ordered_groups(evaluation)}
    parts = {
        name: _measured(judged[chosen], errors[list(members[name])])
        for name, chosen in {ALL: np.ones(len(judged), bool), **groups}.items()
    }
    figure, axes = new_figure(1, len(parts), 3.8, 3.8)
    for ax, (name, (found, values)) in zip(axes[0], parts.items(), strict=True):
        _draw(ax, name, found, values)
    figure.suptitle(f"{run.name}, {evaluation.dataset}")
    counted = "detections" if evaluation.task == "lvis" else "images"
    columns = ("mean score", "right", "ECE", "classwise", "Brier")
    headers = ["in percent", counted, *columns]
    rows = [
        [name, int(found.count.sum()), *(values[column] for column in columns)]
        for name, (found, values) in parts.items()
    ]
    text = tabulate(rows, headers=headers, floatfmt=".2f", intfmt=",", disable_numparse=[0])
    values = {
        **run_values([run], evaluation),
        "bins": BINS,
        "groups": {name: {**values, **asdict(found)} for name, (found, values) in parts.items()},
        "classes": [
            {"name": name, "ECE": 100 * error}
            for name, error in zip(evaluation.class_names, errors, strict=True)
        ],
    }
    return Study("calibration", values, text, figure)


def _file(evaluation: Evaluation) -> Path:
    names = FILES.get(evaluation.task)
    if names is None:
        raise ValueError(
            f"{evaluation.path}: label maps are saved without scores, name a run of detection or "
            "image classification"
        )
    found = [evaluation.path.with_name(name) for name in names]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        how = "TEST.CLASSIFICATION.WRITE_PREDICTIONS True and " if names == (FILE_NAME,) else ""
        raise ValueError(
            f"{evaluation.path.parent} has no {' or '.join(names)}: evaluate the run with {how}"
            "longtail train --eval-only"
        )
    return path


def _measured(judged: Judged, errors: np.ndarray) -> tuple[Reliability, dict[str, float]]:
    found = reliability(judged.scores, judged.hits)
    measured = {
        "mean score": np.mean(judged.scores) if len(judged) else np.nan,
        "right": np.mean(judged.hits) if len(judged) else np.nan,
        "ECE": found.error,
        "classwise": mean(errors),
        "Brier": brier(judged.scores, judged.hits),
    }
    return found, {name: 100 * float(value) for name, value in measured.items()}


def _draw(ax: Axes, name: str, found: Reliability, values: dict[str, Any]) -> None:
    edges = np.linspace(0, 1, len(found.count) + 1)
    share = found.count / max(found.count.sum(), 1)
    ax.stairs(share, edges, fill=True, color=FREQUENCY_COLOR, label="share of predictions")
    ax.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
    filled = found.count > 0
    color = GROUP_COLORS.get(name, "black")
    ax.plot(found.score[filled], found.precision[filled], "o-", color=color, label="right")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    ax.set_xlabel("score")
    ax.set_ylabel("share that is right")
    ax.set_title(
        f"{name}: ECE {values['ECE']:.1f} %, classwise {values['classwise']:.1f} %", fontsize=9
    )
    ax.legend(fontsize=8, loc="upper left")
