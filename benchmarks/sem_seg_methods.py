# SPDX-License-Identifier: Apache-2.0
"""DisAlign, Region Rebalance and both together in semantic segmentation.

    python benchmarks/sem_seg_methods.py --camvid path/to/camvid

On CamVid (SegNet's layout) and on generated scenes, three seeds. ``disalign`` continues the
baseline of its seed, ``rr_disalign`` the run with Region Rebalance; the second stage takes a
quarter of the first one's iterations with the same optimizer. ``baseline_longer`` has as many
iterations in one stage as ``disalign`` in both. Nothing is tuned on what is reported: the recipe
was chosen for the baseline on a part of CamVid's training set, lambda and rho are the papers', and
every run is evaluated once, at its end. Stopped, it keeps what it finished: the same command
continues.
"""

import argparse

from camvid import prepare
from rows import Tables, add_table_arguments, run_tables

from longtail.config import load_config
from longtail.data.synthetic import SyntheticConfig, write_dataset
from longtail.jobs.plan import Row
from longtail.utils.cores import available_cores
from longtail.utils.errors import ending_in_one_line

MODEL = "deeplabv3plus_lite0"
FOLDERS = ("CamVid", "quickstart")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", required=True, help="CamVid in SegNet's layout")
    add_table_arguments(parser, output="output/sem_seg_methods")
    return parser.parse_args()


def tables() -> Tables:
    """The rows on both data sets."""
    found = {}
    for folder in FOLDERS:
        configs = {
            method: f"{folder}/{MODEL}{ending}.yaml"
            for method, ending in (
                *(("baseline", ""), ("rr", "_rr")),
                *(("disalign", "_disalign"), ("rr_disalign", "_rr_disalign")),
            )
        }
        rows = {method: Row(config) for method, config in configs.items()}
        both = sum(load_config(configs[m]).SOLVER.MAX_ITER for m in ("baseline", "disalign"))
        longer = Row(configs["baseline"], ("SOLVER.MAX_ITER", str(both)), "longer")
        found[folder] = rows | {"baseline_longer": longer}
    return found


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    datasets = arguments.output.resolve() / "datasets"
    with ending_in_one_line():
        if not arguments.dry_run:
            prepare(arguments.camvid, datasets)
            write_dataset(datasets / "synthetic", 400, 120, SyntheticConfig(), available_cores())
        run_tables(
            "sem_seg_methods",
            tables(),
            arguments,
            options=["SOLVER.CHECKPOINT_PERIOD", "100"],
            datasets=lambda seed: datasets,
        )


if __name__ == "__main__":
    main()
