# SPDX-License-Identifier: Apache-2.0
"""Every method on CIFAR-100-LT, imbalance 100, with ResNet-32: a real long tail, much published.

    longtail prepare cifar100_lt --source cifar-100-binary.tar.gz
    python benchmarks/cifar100_lt.py --seeds 3
    python benchmarks/cifar100_lt.py --recipe CIFAR100-LT --methods linear --seeds 1

CIFAR100-LT has the 200 epochs that figures are published with, CIFAR100-LT-40e a fifth of them,
for processors without a GPU. Second stages and post hoc methods start from the first stage of
their seed. Among the metrics of a run is the correlation of a class's accuracy with its training
images, Eq. 6 of the Region Rebalance paper, whose Table 2 has 75.9 % for this data set. Stopped, it
keeps what it finished: the same command continues.
"""

import argparse

from rows import folder_rows, run_tables

from longtail.jobs.arguments import add_run_arguments
from longtail.utils.errors import ending_in_one_line

RECIPES = ("CIFAR100-LT-40e", "CIFAR100-LT")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="folder of configs")
    parser.add_argument("--methods", nargs="+", help="configs; by default all of the folder")
    add_run_arguments(parser, output="output/cifar100_lt")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    recipe = arguments.recipe
    with ending_in_one_line():
        run_tables(
            recipe.lower().replace("-", "_"),
            {recipe: folder_rows(recipe, arguments.methods, "linear")},
            arguments,
            main="average",
        )


if __name__ == "__main__":
    main()
