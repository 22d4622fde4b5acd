# SPDX-License-Identifier: Apache-2.0
"""Draw the README's picture, docs/effect.png, from what the benchmarks have measured.

python tools/draw_effect.py
"""

import json
from pathlib import Path

import matplotlib

from longtail.utils.io import atomic_write

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SUMMARY = "mean and standard deviation"
# CamVid's classes by their pixels in the training set, the most frequent first.
CLASSES = (
    *("Road", "Building", "Sky", "Tree", "Car", "Pavement"),
    *("SignSymbol", "Fence", "Pole", "Pedestrian", "Bicyclist"),
)
GRAY, BLUE, ORANGE = "#9aa0a6", "#2f6db5", "#e07b39"


def bars(axis: plt.Axes, groups: list[str], series: dict[str, tuple[list, str]]) -> None:
    """Draw groups of bars with their standard deviations.

    Args:
        axis: to draw on.
        groups: labels below the groups.
        series: for each bar of a group its label, with a [mean, deviation] a group and a colour.
    """
    width = 0.8 / len(series)
    for place, (label, (values, color)) in enumerate(series.items()):
        x = [index + (place - (len(series) - 1) / 2) * width for index in range(len(groups))]
        means, deviations = zip(*values, strict=True)
        axis.bar(x, means, width, yerr=deviations, label=label, color=color, error_kw={"lw": 0.8})
    axis.set_xticks(range(len(groups)), groups, rotation=35, ha="right")
    axis.set_ylim(0, 105)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)


def draw() -> plt.Figure:
    """Draw both methods beside their baselines, from frequent to rare."""
    pixels = _summary("sem_seg_methods.json", "CamVid")
    images = _summary("classification.json", "synthetic-LT")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.8), width_ratios=(2.6, 1), layout="constrained"
    )
    rows = [pixels[f"Acc {name}"] for name in CLASSES]
    bars(
        left,
        list(CLASSES),
        {
            "baseline": ([row["baseline"] for row in rows], GRAY),
            "Region Rebalance": ([row["rr"] for row in rows], BLUE),
            "Region Rebalance + DisAlign": ([row["rr_disalign"] for row in rows], ORANGE),
        },
    )
    left.set_title("CamVid: pixel accuracy by class, %, frequent to rare, 3 seeds")
    groups = ["many", "medium", "few"]
    bars(
        right,
        [f"{group} shots" for group in groups],
        {
            "baseline": ([images[group]["linear"] for group in groups], GRAY),
            "DisAlign": ([images[group]["linear_disalign"] for group in groups], ORANGE),
        },
    )
    right.set_title("image classification, %, 5 seeds")
    return figure


def _summary(file: str, benchmark: str) -> dict:
    """[mean, deviation] by metric and row."""
    results = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    rows = results["figures"]["tables"][benchmark]["rows"]
    metrics = next(iter(rows.values()))[SUMMARY]
    return {
        metric: {name: row[SUMMARY][metric] for name, row in rows.items()} for metric in metrics
    }


def main() -> None:
    """Write the picture."""
    figure = draw()
    with atomic_write(ROOT / "docs" / "effect.png", "wb") as file:
        figure.savefig(file, format="png", dpi=110)


if __name__ == "__main__":
    main()
