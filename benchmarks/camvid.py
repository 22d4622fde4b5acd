# SPDX-License-Identifier: Apache-2.0
r"""Baseline and Region Rebalance on CamVid: several seeds, equal budgets, one command.

    python benchmarks/camvid.py --data path/to/camvid
    python benchmarks/camvid.py --data path/to/camvid --seeds 1 --iterations 200 \
        --result camvid_architectures --models fcn_lite0 upernet_swin_T

``--data`` holds the SegNet layout ({train,val} images and {train,val}annot label maps). Stopped, it
keeps what it finished: the same command continues. Nothing is tuned on val: the recipe was chosen
for the baseline on a part of the training set, lambda is the paper's, and every run is evaluated
once, at its end.
"""

import argparse
from pathlib import Path

import torch
from rows import add_table_arguments, run_tables

from longtail.data.prepare import prepare_dataset
from longtail.jobs.plan import Row
from longtail.utils.errors import ending_in_one_line

ON_GPU = torch.cuda.is_available()


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CamVid in SegNet's layout")
    parser.add_argument(
        "--models",
        nargs="+",
        # ResNet-50c where there is a GPU, otherwise EfficientNet-Lite0.
        default=["deeplabv3plus_R_50c" if ON_GPU else "deeplabv3plus_lite0"],
        help="configs in configs/CamVid, each with one that ends in _rr",
    )
    parser.add_argument("--iterations", type=int, help="of every run; by default as configured")
    parser.add_argument(
        "--result", default="camvid_gpu" if ON_GPU else "camvid", help="file in benchmarks/results"
    )
    add_table_arguments(parser, output="output/camvid_benchmark")
    return parser.parse_args()


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    datasets = arguments.output.resolve() / "datasets"
    options = ["SOLVER.CHECKPOINT_PERIOD", "100"]
    if arguments.iterations:
        options += ["SOLVER.MAX_ITER", str(arguments.iterations)]
    tables = {
        model: {"baseline": Row(f"CamVid/{model}.yaml"), "rr": Row(f"CamVid/{model}_rr.yaml")}
        for model in arguments.models
    }
    with ending_in_one_line():
        if not arguments.dry_run:
            prepare(arguments.data, datasets)
        run_tables(
            arguments.result, tables, arguments, options=options, datasets=lambda seed: datasets
        )


def prepare(source: str, datasets: Path) -> None:
    """Make the data set under ``datasets``."""
    prepared = prepare_dataset("camvid", str(datasets), source=source)
    if prepared.problems:
        raise ValueError(prepared.problems[0])


if __name__ == "__main__":
    main()
