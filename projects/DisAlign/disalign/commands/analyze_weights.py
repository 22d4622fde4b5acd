# SPDX-License-Identifier: Apache-2.0
r"""Draw the weights of classes by rho over their frequency: Eq. 11 and Figure 3 of DisAlign.

    longtail analyze-weights imagenet_lt_train
    longtail analyze-weights ade20k_sem_seg_train --rho 0 0.3 1

Eq. 11 counts pixels of data sets with label maps, instances of those for detection, and otherwise
images. The weights are scaled to mean 1, as in training; a class that does not occur counts as one
sample. OUTPUT then has weights.png, .svg and .json.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from longtail.utils.command_line import add_analysis_arguments, command_parser
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    import numpy as np

    from longtail.analysis.study import Study
    from longtail.data.statistics.class_stats import ClassStats

# Those of the figure.
RHO = (0.0, 0.3, 1.0)


def study_weights(dataset: str, stats: "ClassStats", rhos: Sequence[float]) -> "Study":
    """Compute the weights of a data set's classes for several values of rho.

    Args:
        dataset: its name.
        stats: its class statistics.
        rhos: exponents of Eq. 11.

    Raises:
        ValueError: a rho is negative or not finite, or is there twice.
    """
    import numpy as np
    import torch
    from tabulate import tabulate

    from disalign.functional import generalized_reweight
    from longtail.analysis.gain import frequency_order
    from longtail.analysis.study import Study
    from longtail.visualization.figures import (
        legend_above,
        new_figure,
        run_color,
        sorted_class_axis,
    )

    if len(set(rhos)) < len(rhos):
        raise ValueError(f"--rho must be different numbers, got {list(rhos)}")
    counts, unit = _counted(stats)
    weights = {
        rho: generalized_reweight(torch.from_numpy(counts), rho, clamp_zero_counts=True).numpy()
        for rho in rhos
    }
    figure, [[ax]] = new_figure(1, 1, 8, 4.4)
    order, _ = sorted_class_axis(ax, stats.class_names, counts, unit)
    for number, (rho, values) in enumerate(weights.items()):
        mark = {"drawstyle": "steps-mid", "linewidth": 1.8, "color": run_color(number)}
        ax.plot(np.arange(len(order)), values[order], label=f"rho = {rho:g}", **mark)
    ax.set_yscale("log")
    ax.set_ylabel("weight of a sample, mean of classes 1")
    legend_above(ax, dataset)
    rows = [
        [rho, values.min(), values.max(), values.max() / values.min()]
        for rho, values in weights.items()
    ]
    headers = ["rho", "lightest class", "heaviest class", "ratio"]
    text = tabulate(rows, headers=headers, floatfmt=["g", ".4f", ".4f", ".1f"])
    classes = [
        {
            "name": stats.class_names[index],
            unit: counts[index],
            "weights": {f"{rho:g}": values[index] for rho, values in weights.items()},
        }
        for index in frequency_order(counts)
    ]
    return Study("weights", {"dataset": dataset, "classes": classes}, text, figure)


def _counted(stats: "ClassStats") -> tuple["np.ndarray", str]:
    """What Eq. 11 counts for the task that a data set is of, and how it is called."""
    if stats.pixel_count is not None:
        return stats.pixel_count, "training pixels"
    if stats.instance_count is not None:
        return stats.instance_count, "training instances"
    return stats.image_count, "training images"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("analyze-weights", __doc__)
    parser.add_argument("dataset", metavar="DATASET", help="a registered name")
    parser.add_argument(
        "--rho",
        nargs="+",
        type=float,
        default=RHO,
        metavar="RHO",
        help="exponents of Eq. 11 (default: 0 0.3 1)",
    )
    add_analysis_arguments(parser, of_runs=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        from longtail.data.statistics.class_stats import get_class_stats

        stats = get_class_stats(options.dataset)
        study_weights(options.dataset, stats, options.rho).report(options.output)
