# SPDX-License-Identifier: Apache-2.0
"""Print how often every class of a registered data set occurs, and its imbalance factors.

longtail class-statistics --dataset ade20k_sem_seg_train
longtail class-statistics --data my_data.yaml --dataset road_train
torchrun --nproc-per-node 2 -m longtail class-statistics ... (all processes share the label maps)
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from longtail.commands._processes import run_once
from longtail.utils.command_line import add_data_argument, command_parser
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from longtail.data.statistics.class_stats import ClassStats


def class_table(stats: "ClassStats") -> str:
    """Show one line a class, the most frequent first: pixels, their share, images, instances."""
    from tabulate import tabulate

    columns = {"class": list(stats.class_names)}
    if stats.pixel_count is not None:
        columns["pixels"] = stats.pixel_count
        columns["pixel share %"] = 100 * stats.pixel_count / max(stats.pixel_count.sum(), 1)
    columns["images"] = stats.image_count
    if stats.instance_count is not None:
        columns["instances"] = stats.instance_count
    rank = stats.image_count if stats.pixel_count is None else stats.pixel_count
    order = (-rank).argsort(kind="stable")
    rows = [[column[index] for column in columns.values()] for index in order]
    formats = [".4f" if name == "pixel share %" else "" for name in columns]
    return tabulate(rows, headers=list(columns), floatfmt=formats)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("class-statistics", __doc__)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered data set")
    add_data_argument(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that read labels (default: all cores, or this process's part of them)",
    )
    return parser


def print_statistics(options: argparse.Namespace) -> None:
    """Print the table of the classes, and what sums it up.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError: bad input; the message says what to do.
    """
    from longtail.data.datasets.declared import register_data_files
    from longtail.data.statistics.class_stats import locate_class_stats
    from longtail.data.statistics.counting import frequency_bounds
    from longtail.data.statistics.groups import frequency_groups, shot_groups

    register_data_files(options.data)
    stats, path = locate_class_stats(options.dataset, options.workers)
    print(class_table(stats))
    print()
    print(f"images                  {stats.num_images}")
    if stats.pixel_imbalance_factor is not None:
        print(f"pixel imbalance factor  {stats.pixel_imbalance_factor:.2f}")
    is_classification = stats.pixel_count is None and stats.instance_count is None
    kind = "" if is_classification else "region "
    print(f"{kind + 'imbalance factor':<23} {stats.region_imbalance_factor:.2f}")
    if is_classification:
        groups = shot_groups(stats.image_count)
        print("classes                 " + ", ".join(f"{len(v)} {k}" for k, v in groups.items()))
    if stats.instance_count is not None:
        bounds = frequency_bounds([options.dataset])
        groups = frequency_groups(stats.image_count, bounds)
        counts = ", ".join(f"{len(v)} {k}" for k, v in groups.items())
        print(f"classes                 {counts} ({bounds})")
    print(f"file                    {path or 'none: the cache folder cannot be written'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        run_once(print_statistics, options)
