# SPDX-License-Identifier: Apache-2.0
"""Every method on long-tailed image classification: real digits and generated images, five seeds.

    python benchmarks/classification.py
    python benchmarks/classification.py --split val --seeds 100,101,102   # to choose recipes on

The methods are the configs in ``configs/digits-LT`` and ``configs/synthetic-LT``. A seed draws the
images, which classes are rare, and the networks. Second stages and post hoc methods start from the
first stage of their seed. First stages have one recipe and budget, and so have second stages;
``linear_longer`` is the baseline with the iterations of both. What had to be chosen was chosen on
the validation images of other seeds than those reported, every run is evaluated on test once, at
its end. Stopped, it keeps what it finished: the same command continues.
"""

import argparse
from pathlib import Path

from rows import Tables, add_table_arguments, folder_rows, run_tables

from longtail.data.prepare import prepare_dataset
from longtail.data.synthetic import write_classification_dataset
from longtail.utils.errors import ending_in_one_line

# Folder of configs -> name of the data set.
DATASETS = {"digits-LT": "digits_lt", "synthetic-LT": "synthetic_lt"}
BASELINE = "linear"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--methods", nargs="+", help="configs; by default all of the folder")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--result", default="classification", help="file in benchmarks/results")
    add_table_arguments(parser, seeds=5, output="output/classification")
    arguments = parser.parse_args()
    if arguments.split == "val" and len(arguments.benchmarks) > 1:
        parser.error("--split val is of one data set: add --benchmarks digits-LT or synthetic-LT")
    return arguments


def tables(folders: list[str], methods: list[str] | None) -> Tables:
    """The rows of each folder, the baseline first, which the others are compared with.

    Args:
        folders: of configs.
        methods: names of configs; by default all.
    """
    return {folder: folder_rows(folder, methods, BASELINE) for folder in folders}


def prepare(folder: str, datasets: Path, seed: int) -> None:
    """Make the data set of a seed, under ``datasets``."""
    if folder == "digits-LT":
        prepared = prepare_dataset("digits_lt", str(datasets), seed=seed)
        if prepared.problems:
            raise ValueError(prepared.problems[0])
    else:
        write_classification_dataset(datasets / "synthetic_lt", seed=seed)


def main() -> None:
    """Prepare the data, run what is missing, print and write the comparison."""
    arguments = parse_arguments()
    root = arguments.output.resolve() / "datasets"
    with ending_in_one_line():
        for folder in arguments.benchmarks:
            for seed in () if arguments.dry_run else arguments.seeds:
                prepare(folder, root / f"seed{seed}", seed)
        # A worker of its own would cost more than it saves in runs of half a minute.
        options = ["DATALOADER.NUM_WORKERS", "0"]
        if arguments.split == "val":
            (folder,) = arguments.benchmarks
            options += ["DATASETS.TEST", f"('{DATASETS[folder]}_val',)"]
        run_tables(
            arguments.result,
            tables(arguments.benchmarks, arguments.methods),
            arguments,
            options=options,
            datasets=lambda seed: root / f"seed{seed}",
            main="average",
        )


if __name__ == "__main__":
    main()
