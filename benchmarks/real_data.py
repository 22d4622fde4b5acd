# SPDX-License-Identifier: Apache-2.0
"""Every method on real data with a long tail: images, label maps and objects.

    longtail prepare cifar100_lt --source cifar-100-binary.tar.gz
    python benchmarks/real_data.py CIFAR100-LT-40e --seeds 3
    python benchmarks/real_data.py IoTKITs-LT --methods mask_rcnn_lite0_FPN_disalign --seeds 1

The data sets are folders of configs. CIFAR100-LT has the 200 epochs that metrics are published
with, CIFAR100-LT-40e a fifth of them, for processors without a GPU; among the metrics of a run
there is the correlation of a class's accuracy with its training images, Eq. 6 of the Region
Rebalance paper, whose Table 2 has 75.9 % for this data set. CCP is segmented, in IoTKITs-LT objects
are detected. Second stages and post hoc methods start from the first stage of their seed. Stopped,
it keeps what it finished: the same command continues.
"""

import argparse

from rows import add_table_arguments, folder_rows, run_tables

from longtail.utils.errors import ending_in_one_line

# Folder of configs -> the baseline, and the metric that the table is sorted by.
DATA = {
    "CIFAR100-LT-40e": ("linear", "average"),
    "CIFAR100-LT": ("linear", "average"),
    "CCP": ("deeplabv3plus_lite0", "mIoU"),
    "IoTKITs-LT": ("mask_rcnn_lite0_FPN", "box AP"),
}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=DATA, help="folder of configs")
    parser.add_argument("--methods", nargs="+", help="configs; by default all of the folder")
    parser.add_argument("--options", nargs="*", default=[], metavar="KEY VALUE", help="of all runs")
    add_table_arguments(parser, output="output/real_data")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    baseline, metric = DATA[arguments.data]
    with ending_in_one_line():
        run_tables(
            arguments.data.lower().replace("-", "_"),
            {arguments.data: folder_rows(arguments.data, arguments.methods, baseline)},
            arguments,
            options=arguments.options,
            main=metric,
        )


if __name__ == "__main__":
    main()
