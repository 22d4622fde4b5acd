"""Generate the long-tailed data set of the quick start.

python tools/generate_synthetic.py --workers 2
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from longtail.data.datasets import datasets_root
from longtail.data.datasets.synthetic import NAME
from longtail.data.synthetic import SPLITS, SyntheticConfig, write_dataset
from longtail.utils.cores import available_cores


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    default = SyntheticConfig()
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path(datasets_root()) / NAME, help="folder"
    )
    parser.add_argument("--num-train", type=int, metavar="N", default=400, help="training images")
    parser.add_argument("--num-val", type=int, metavar="N", default=120, help="validation images")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", default=default.image_size[0], help="image side"
    )
    parser.add_argument(
        "--classes", type=int, metavar="K", default=default.num_classes, help="number of classes"
    )
    parser.add_argument(
        "--region-imbalance",
        type=float,
        metavar="RIF",
        default=default.region_imbalance,
        help="images with the most frequent class / with the rarest, in training",
    )
    parser.add_argument(
        "--pixel-imbalance",
        type=float,
        metavar="PIF",
        default=default.pixel_imbalance,
        help="pixels of the most frequent class / of the rarest, in training",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="same seed, same files")
    parser.add_argument(
        "--workers", type=int, metavar="N", default=available_cores(), help="processes"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    try:
        config = SyntheticConfig(
            num_classes=options.classes,
            image_size=(options.size, options.size),
            region_imbalance=options.region_imbalance,
            pixel_imbalance=options.pixel_imbalance,
            seed=options.seed,
        )
        meta = write_dataset(
            options.output, options.num_train, options.num_val, config, options.workers
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error

    columns = {"class": meta["classes"]}
    for split in SPLITS:
        for kind, counts in (("images", "image_count"), ("pixels", "pixel_count")):
            columns[f"{split} {kind}"] = meta[counts][split]
    print(tabulate(columns, headers="keys"))
    print()
    for name, counts in (("pixel", "pixel_count"), ("region", "image_count")):
        factors = (max(meta[counts][split]) / min(meta[counts][split]) for split in SPLITS)
        print("{} imbalance factor: train {:.1f}, val {:.1f}".format(name, *factors))
    print(f"folder: {options.output}")


if __name__ == "__main__":
    main()
