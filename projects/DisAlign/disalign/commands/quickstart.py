# SPDX-License-Identifier: Apache-2.0
"""DisAlign's two stages on generated data: a detector, its calibration, a table, a report.

    longtail disalign-quickstart [--classifier cosine]

Everything goes under ``output/disalign``. A training that is finished there is not repeated.
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

RESULT = "inference/lvis_synthetic_val/lvis_evaluation.json"
METRICS = ("AP", "APr", "APc", "APf")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("disalign-quickstart", __doc__)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("output/disalign"),
        help="folder of everything that is made (default: output/disalign)",
    )
    parser.add_argument(
        "--classifier",
        choices=("linear", "cosine"),
        default="linear",
        help="classifier of the boxes (default: linear)",
    )
    return parser


def run_quickstart(options: argparse.Namespace) -> None:
    """Run both stages; each step prints the command that does it alone.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        OSError, ValueError: the files cannot be written.
        SystemExit: a step has failed, and has said why.
    """
    from longtail.analysis.methods import find_methods
    from longtail.analysis.report import write_report
    from longtail.analysis.report_media import FIGURES
    from longtail.data.synthetic import write_lvis_dataset

    output = options.output.resolve()
    start = time.perf_counter()
    datasets = output / "datasets"
    print("Generating 1500 scenes with a long tail of 60 categories ...", flush=True)
    write_lvis_dataset(datasets / "lvis_synthetic", 1200, 300, num_workers=available_cores())
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets)}
    ending = "" if options.classifier == "linear" else f"_{options.classifier}"
    first = f"LVIS-Synthetic/mask_rcnn_lite0_FPN{ending}.yaml"
    second = first.replace(".yaml", "_disalign.yaml")
    folders = {name: output / f"{name}{ending}" for name in ("stage1", "stage2")}
    weights = str(folders["stage1"] / "model_final.pth")
    train("stage1", first, folders, [], environment)
    train("stage2", second, folders, ["MODEL.WEIGHTS", weights], environment)
    learned = str(folders["stage2"] / "model_final.pth")
    figures = str(folders["stage2"] / FIGURES)
    plot = ["--config-file", second, "--weights", learned, "--output", figures]
    run_command("plot-calibration", plot, environment)
    table = comparison_table(
        {name: json.loads((folder / RESULT).read_text()) for name, folder in folders.items()}
    )
    with atomic_write(output / "comparison.txt") as file:
        file.write(f"{table}\n")
    print(f"\n{table}\n")
    methods = find_methods([f"{name}={folder}" for name, folder in folders.items()])
    page = output / f"report{ending}.html"
    write_report(methods, page)
    print(f"Table and logs: {output} ({time.perf_counter() - start:.0f} s)")
    print(f"Curves, gain of each category, calibration: {page}")


def train(
    name: str, config: str, folders: dict[str, Path], options: list[str], environment: dict
) -> None:
    """One stage with the evaluation at its end, unless that is done."""
    if (folders[name] / RESULT).is_file():
        print(f"{name}: trained before; to repeat it, remove {folders[name]}")
        return
    options = ["--config-file", config, "--resume", *options, "OUTPUT_DIR", str(folders[name])]
    run_command("train", options, environment)


def comparison_table(reports: dict[str, dict]) -> str:
    """Box and mask AP of both stages, over all categories and by frequency."""
    from tabulate import tabulate

    rows = [
        [f"{title} {metric}", *(report["tasks"][task][metric] for report in reports.values())]
        for title, task in (("box", "bbox"), ("mask", "segm"))
        for metric in METRICS
    ]
    return tabulate(rows, headers=["percent", *reports], floatfmt=".2f")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        run_quickstart(options)
