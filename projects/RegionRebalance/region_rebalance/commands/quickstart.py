# SPDX-License-Identifier: Apache-2.0
"""The quick start: two data sets of handwritten digits, both methods, tables, pictures, reports.

    longtail quickstart

Image classification (digits-LT) and semantic segmentation (scenes of digits), each with a long
tail and balanced test images: baseline, Region Rebalance, DisAlign, and both. Everything goes under
``output/quickstart``. A training run that is finished there is not repeated.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.utils.command_line import command_parser
from longtail.utils.cores import available_cores
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import atomic_write

if TYPE_CHECKING:
    from longtail.analysis.runs import Run

IMAGES = {
    "baseline": "digits-LT/linear.yaml",
    "DisAlign": "digits-LT/linear_disalign.yaml",
}
MODEL = "digit-scenes/upernet_resnet"
PIXELS = {
    "baseline": f"{MODEL}.yaml",
    "Region Rebalance": f"{MODEL}_rr.yaml",
    "DisAlign": f"{MODEL}_disalign.yaml",
    "RR + DisAlign": f"{MODEL}_rr_disalign.yaml",
}
# Shown of each, and in the last line of a table what three or five seeds gave.
IMAGE_METRICS = ("average", "many", "medium", "few")
PIXEL_METRICS = ("mIoU", "mAcc", "mAcc head", "mAcc body", "mAcc tail")
PREDICTIONS = "sem_seg_predictions.json"
# Scenes that are shown: those with most pixels of the tail recovered, and the one with most lost.
GAINED = 4
LOST = 1


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
    """Make the data, train, and show what came out.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        OSError, ValueError: the files cannot be written, or a folder holds another run.
        SystemExit: a run has failed.
    """
    output = options.output.resolve()
    start = time.perf_counter()
    prepare(output / "datasets")
    images, pixels = train(output)
    tables = [
        f"Images of digits, accuracy in percent\n\n{table(IMAGES, images, IMAGE_METRICS)}",
        f"Scenes of digits, percent\n\n{table(PIXELS, pixels, PIXEL_METRICS)}",
    ]
    draw(output / "pictures", images, pixels)
    draw_scenes(output / "pictures", output / "datasets", pixels)
    lines = summary(images, pixels)
    text = "\n\n".join([*tables, "\n".join(lines)])
    with atomic_write(output / "comparison.txt") as file:
        file.write(f"{text}\n")
    pages = write_pages(output, images, pixels)
    print(f"\n{text}\n\nPictures: {output / 'pictures'}")
    print(f"Curves, gain of each class, confusion: {pages[1]}, and of the images {pages[0]}")
    print(f"{time.perf_counter() - start:.0f} s. How to train on your own data: README.md")


def prepare(datasets: Path) -> None:
    """Make both data sets, unless they are there.

    Args:
        datasets: the folder of all data sets.

    Raises:
        ImportError: scikit-learn, which holds the digits, is not installed.
    """
    from longtail.data.prepare.digits_lt import prepare_digits_lt
    from longtail.data.synthetic import write_digit_scenes

    print("Handwritten digits with a long tail: images, and scenes to segment ...", flush=True)
    prepare_digits_lt(str(datasets))
    write_digit_scenes(datasets / "digit_scenes", num_workers=available_cores())


def train(output: Path) -> tuple[dict[str, "Run"], dict[str, "Run"]]:
    """Run what is missing, as many at a time as there are cores.

    Args:
        output: folder of everything.

    Returns:
        The runs on images and on scenes, by method.
    """
    from longtail.jobs.plan import Row
    from longtail.jobs.run import run_rows

    rows = {config: Row(config) for config in (*PIXELS.values(), *IMAGES.values())}
    arguments = argparse.Namespace(
        seeds=(0,), num_gpus=None, dry_run=False, launcher="local", imports=()
    )
    _, runs = run_rows(
        rows.values(),
        arguments,
        output=output / "runs",
        options=("TEST.SEM_SEG.WRITE_PREDICTIONS", "True"),
        datasets=lambda seed: output / "datasets",
    )
    of_config = {config: runs[row][0] for config, row in rows.items()}
    return tuple(
        {name: of_config[config] for name, config in configs.items()}
        for configs in (IMAGES, PIXELS)
    )


def table(configs: Mapping[str, str], runs: Mapping[str, "Run"], metrics: Sequence[str]) -> str:
    """Tabulate this run's metrics, and what the benchmarks recorded over several seeds.

    Args:
        configs: by method.
        runs: by method.
        metrics: names of columns.
    """
    from tabulate import tabulate

    from longtail.config.tables import read_leaves

    leaves, lines = read_leaves(), []
    for method, run in runs.items():
        found = run.metrics()
        lines.append([method, *(f"{found[metric]:.1f}" for metric in metrics)])
    for method, config in configs.items():
        recorded = leaves[config].measured
        lines.append([f"{method}, several seeds", *(recorded.get(m, "") for m in metrics)])
    return tabulate(lines, ["", *metrics], disable_numparse=True)


def draw(folder: Path, images: Mapping[str, "Run"], pixels: Mapping[str, "Run"]) -> None:
    """Draw the accuracy of all classes, by method, and how often they occur.

    Args:
        folder: of the pictures.
        images: runs by method.
        pixels: runs by method.
    """
    from longtail.analysis.class_bars import draw_class_bars
    from longtail.analysis.study import class_counts
    from longtail.visualization.figures import new_figure, save_figure

    figure, axes = new_figure(2, 1, 9.0, 3.6)
    panels = (
        (images, "acc", "Images: accuracy of each digit", "training images"),
        (pixels, "Acc", "Scenes: pixel accuracy of each class", "training scenes"),
    )
    for (panel,), (runs, metric, title, unit) in zip(axes, panels, strict=True):
        evaluations = {method: run.evaluation() for method, run in runs.items()}
        first = evaluations["baseline"]
        draw_class_bars(
            panel,
            first.class_names,
            class_counts(first, "images"),
            {method: found.per_class[metric] for method, found in evaluations.items()},
            unit=unit,
            title=title,
        )
    save_figure(figure, folder / "accuracy_of_classes.png")


def draw_scenes(folder: Path, datasets: Path, runs: Mapping[str, "Run"]) -> None:
    """Draw the test scenes on which the last method recovers, and loses, most pixels of the tail.

    Args:
        folder: of the pictures.
        datasets: the folder of all data sets.
        runs: by method, with saved predictions.
    """
    from longtail.data.datasets.digit_scenes import register_digit_scenes
    from longtail.data.statistics.counting import load_records
    from longtail.visualization.recovered import by_recovered, enlarged_picture
    from longtail.visualization.saved import saved_predictor
    from longtail.visualization.tasks import build_task
    from longtail.visualization.writing import write_pictures

    register_digit_scenes(str(datasets))
    evaluation = runs["baseline"].evaluation()
    records, task = load_records(evaluation.dataset), build_task(evaluation.dataset)
    predictors = {
        method: saved_predictor(
            task, method, str(run.evaluation().path.with_name(PREDICTIONS)), records
        )
        for method, run in runs.items()
    }
    first, *_, last = predictors.values()
    ranked = by_recovered(records, task, first, last, evaluation.groups["tail"])
    chosen = [("recovered", record) for _, record in ranked[:GAINED]]
    chosen += [("lost", record) for _, record in ranked[: -LOST - 1 : -1]]
    for number, (what, record) in enumerate(chosen, 1):
        picture = enlarged_picture(record, task, predictors)
        # One by one: no sheet of them all.
        write_pictures(str(folder), [(f"scene_{number}_{what}", picture)])


def summary(images: Mapping[str, "Run"], pixels: Mapping[str, "Run"]) -> list[str]:
    """Say in three lines what one sees, and where to look further.

    Args:
        images: runs by method.
        pixels: runs by method.
    """
    accuracy = {
        (method, metric): images[method].metrics()[metric]
        for method in ("baseline", "DisAlign")
        for metric in ("few", "average")
    }
    tail = [run.metrics()["mAcc tail"] for run in pixels.values()]
    return [
        "Images: with DisAlign digits with fewer than 20 training images go from "
        f"{accuracy['baseline', 'few']:.1f} to {accuracy['DisAlign', 'few']:.1f} % right, all from "
        f"{accuracy['baseline', 'average']:.1f} to {accuracy['DisAlign', 'average']:.1f} %: the "
        "upper bars of accuracy_of_classes.png.",
        "Scenes: of the pixels of the three rarest digits {:.1f} % are right, with Region "
        "Rebalance {:.1f} %, with DisAlign {:.1f} %, with both {:.1f} %: the lower bars; "
        "scene_*.png show where both gain most, and where they lose most.".format(*tail),
        "This is one seed of a small set: trust the rows of several seeds. Results on real data, "
        "and where the methods do not win: benchmarks/README.md.",
    ]


def write_pages(
    output: Path, images: Mapping[str, "Run"], pixels: Mapping[str, "Run"]
) -> list[Path]:
    """Write a report of the images and one of the scenes, which has the pictures.

    Args:
        output: folder of everything.
        images: runs by method.
        pixels: runs by method.

    Returns:
        Their files.
    """
    from longtail.analysis.methods import Method
    from longtail.analysis.report import write_report

    pages = []
    for name, runs, pictures in (
        ("report_images.html", images, []),
        ("report.html", pixels, [output / "pictures"]),
    ):
        methods = [Method(method, (run,)) for method, run in runs.items()]
        write_report(methods, output / name, pictures=pictures)
        pages.append(output / name)
    return pages


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(options.output):
        run_quickstart(options)
