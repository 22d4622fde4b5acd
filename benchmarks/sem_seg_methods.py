# SPDX-License-Identifier: Apache-2.0
r"""DisAlign, Region Rebalance and both together in semantic segmentation.

    python benchmarks/sem_seg_methods.py --camvid path/to/camvid
    python benchmarks/sem_seg_methods.py --camvid path/to/camvid --folders CamVid \
        --methods baseline rr rr_unbalanced --result camvid_ablations

On CamVid (SegNet's layout) and on generated scenes, three seeds. ``disalign`` continues the
baseline of its seed, ``rr_disalign`` the run with Region Rebalance; the second stage takes a
quarter of the first one's iterations with the same optimizer. ``baseline_longer`` and
``rr_longer`` have as many iterations in one stage as ``disalign`` in both; ``rr_unbalanced`` is
the region branch without the rebalancing (component I). Nothing is tuned on what is reported: the
recipe was chosen for the baseline on a part of CamVid's training set, lambda and rho are the
papers', and every run is evaluated once, at its end. Stopped, it keeps what it finished: the same
command continues.
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
# Ending of a config -> row; the later ones are of CamVid alone.
METHODS = {"": "baseline", "_rr": "rr", "_disalign": "disalign", "_rr_disalign": "rr_disalign"}
ABLATIONS = {"_rr_unbalanced": "rr_unbalanced", "_rr_longer": "rr_longer"}
BOTH_STAGES = "baseline_longer"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", required=True, help="CamVid in SegNet's layout")
    parser.add_argument("--folders", nargs="+", choices=FOLDERS, default=FOLDERS, help="of configs")
    names = [*METHODS.values(), BOTH_STAGES, *ABLATIONS.values()]
    parser.add_argument(
        "--methods", nargs="+", choices=names, default=names, help="rows; by default all"
    )
    parser.add_argument("--result", default="sem_seg_methods", help="file in benchmarks/results")
    add_table_arguments(parser, output="output/sem_seg_methods")
    return parser.parse_args()


def tables() -> Tables:
    """The rows on both data sets."""
    found = {}
    for folder in FOLDERS:
        endings = METHODS | (ABLATIONS if folder == "CamVid" else {})
        configs = {method: f"{folder}/{MODEL}{ending}.yaml" for ending, method in endings.items()}
        rows = {method: Row(config) for method, config in configs.items()}
        both = sum(load_config(configs[m]).SOLVER.MAX_ITER for m in ("baseline", "disalign"))
        longer = Row(configs["baseline"], ("SOLVER.MAX_ITER", str(both)), "longer")
        found[folder] = rows | {BOTH_STAGES: longer}
    return found


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    datasets = arguments.output.resolve() / "datasets"
    chosen = {
        folder: {k: row for k, row in rows.items() if k in ("baseline", *arguments.methods)}
        for folder, rows in tables().items()
        if folder in arguments.folders
    }
    with ending_in_one_line():
        if not arguments.dry_run:
            prepare(arguments.camvid, datasets)
            if "quickstart" in chosen:
                config = SyntheticConfig()
                write_dataset(datasets / "synthetic", 400, 120, config, available_cores())
        run_tables(
            arguments.result,
            chosen,
            arguments,
            options=["SOLVER.CHECKPOINT_PERIOD", "100"],
            datasets=lambda seed: datasets,
        )


if __name__ == "__main__":
    main()
