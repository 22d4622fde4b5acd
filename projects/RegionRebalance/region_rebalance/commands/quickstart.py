# SPDX-License-Identifier: Apache-2.0
"""The quick start: data, baseline and Region Rebalance, evaluation, a table, pictures, a report.

    longtail quickstart

Everything goes under ``output/quickstart``. A training that is finished there is not repeated.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from longtail.utils.command_line import command_parser, run_command
from longtail.utils.cores import available_cores
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write

CONFIGS = {
    "baseline": "quickstart/deeplabv3plus_lite0.yaml",
    "region_rebalance": "quickstart/deeplabv3plus_lite0_rr.yaml",
}
RESULT = "inference/synthetic_sem_seg_val/sem_seg_evaluation.json"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("quickstart", __doc__)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("output/quickstart"),
        help="folder of everything that is made (default: output/quickstart)",
    )
    return parser


def run_quickstart(options: argparse.Namespace) -> None:
    """Run all steps; each prints the command that does it alone.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        OSError, ValueError: the files cannot be written.
        SystemExit: a step has failed, and has said why.
    """
    from longtail.analysis.methods import find_methods
    from longtail.analysis.report import write_report
    from longtail.data.synthetic import SyntheticConfig, write_dataset

    output = options.output.resolve()
    start = time.perf_counter()
    datasets = output / "datasets"
    print("Generating 520 scenes with a long tail ...", flush=True)
    write_dataset(datasets / "synthetic", 400, 120, SyntheticConfig(), available_cores())
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets)}
    for name, config in CONFIGS.items():
        if (output / name / RESULT).is_file():
            print(f"{name}: trained before; to repeat it, remove {output / name}")
        else:
            options = ["--config-file", config, "--resume", "OUTPUT_DIR", str(output / name)]
            run_command("train", options, environment)
    models = [
        item
        for name, config in CONFIGS.items()
        for item in ("--model", name, config, str(output / name / "model_final.pth"))
    ]
    pictures = ["--output", str(output / "pictures"), "--num-images", "6"]
    run_command("visualize", models + pictures, environment)
    reports = {name: json.loads((output / name / RESULT).read_text()) for name in CONFIGS}
    table = comparison_table(reports)
    with atomic_write(output / "comparison.txt") as file:
        file.write(f"{table}\n")
    print(f"\n{table}\n")
    methods = find_methods([f"{name}={output / name}" for name in CONFIGS])
    write_report(methods, output / "report.html", pictures=[output / "pictures"])
    print(f"Table, pictures and logs: {output} ({time.perf_counter() - start:.0f} s)")
    print(f"Curves, gain of each class, confusion: {output / 'report.html'}")
    print("How to train on ADE20K, COCO-Stuff or your own data: README.md")


def comparison_table(reports: dict[str, dict]) -> str:
    """Tabulate mIoU and mean accuracy of all runs, over all classes and for head, body and tail."""
    from tabulate import tabulate

    headers = ["classes", *(f"{m} {name}" for m in ("mIoU", "mAcc") for name in reports)]
    first = next(iter(reports.values()))
    rows = [["all", *(r[m] for m in ("mIoU", "mAcc") for r in reports.values())]]
    rows += [
        [group, *(r["groups"][group][m] for m in ("mIoU", "mAcc") for r in reports.values())]
        for group in first["groups"]
    ]
    return tabulate(rows, headers=headers, floatfmt=".2f")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        run_quickstart(options)
