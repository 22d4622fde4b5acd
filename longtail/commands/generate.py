# SPDX-License-Identifier: Apache-2.0
"""Generate a long-tailed data set of textures and shapes, or the digits of the quick start.

longtail generate                   label maps: synthetic_sem_seg_{train,val}
longtail generate --lvis            instances: lvis_synthetic_{train,val}
longtail generate --hued            instances of 400 categories: lvis_hued_{train,val}
longtail generate --classification  images: synthetic_lt_{train,val,test,balanced}
longtail generate --digits          label maps: digit_scenes_sem_seg_{train,val,test}
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.utils.command_line import command_parser
from longtail.utils.cores import available_cores
from longtail.utils.datasets_root import datasets_root
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from longtail.data.synthetic import HuedConfig, SyntheticConfig


@dataclass(frozen=True)
class Scenes:
    """Defaults of generated scenes: those of :mod:`longtail.data.synthetic`, as a test compares."""

    name: str
    num_train: int
    num_val: int
    size: int
    classes: int
    stuff: int
    region_imbalance: float
    pixel_imbalance: float


@dataclass(frozen=True)
class Hued:
    """Defaults of generated scenes with several hundred categories, compared likewise."""

    name: str
    num_train: int
    num_val: int
    size: int
    classes: int
    imbalance: float


@dataclass(frozen=True)
class Images:
    """Defaults of generated images of one object each, compared likewise."""

    name: str
    classes: int
    images: int
    imbalance: float


@dataclass(frozen=True)
class Digits:
    """Defaults of scenes of handwritten digits, compared likewise."""

    name: str
    images: int
    imbalance: float


SEM_SEG = Scenes("synthetic", 400, 120, 160, 24, 5, 100.0, 300.0)
LVIS = Scenes("lvis_synthetic", 1200, 300, 192, 68, 8, 1200, 1200)
HUED = Hued("lvis_hued", 2400, 600, 192, 400, 192.0)
CLASSIFICATION = Images("synthetic_lt", 24, 300, 100.0)
DIGITS = Digits("digit_scenes", 300, 20.0)
KINDS = ("lvis", "hued", "classification", "digits")


def build_parser(kind: str = "") -> argparse.ArgumentParser:
    """The command line.

    Args:
        kind: whose options and defaults: ``""`` (label maps) or one of ``KINDS``.
    """
    parser = command_parser("generate", __doc__, _Formatter)
    # --class would be taken for --classes, and of the wrong kind.
    parser.allow_abbrev = False
    parser.add_argument(
        "--lvis",
        action="store_true",
        help="instances in LVIS's format, with defaults of their own: see --lvis --help",
    )
    parser.add_argument(
        "--hued",
        action="store_true",
        help="instances of 400 categories, with options of their own: see --hued --help",
    )
    parser.add_argument(
        "--classification",
        action="store_true",
        help="images and classes, with options of their own: see --classification --help",
    )
    parser.add_argument(
        "--digits",
        action="store_true",
        help="scenes of handwritten digits, with options of their own: see --digits --help",
    )
    if kind == "classification":
        default = CLASSIFICATION
        _add_classification_options(parser, default)
    elif kind == "digits":
        default = DIGITS
        _add_image_options(parser, default, "training scenes; the most frequent digit is in all")
    elif kind == "hued":
        default = HUED
        _add_split_options(parser, default)
        parser.add_argument(
            "--classes", type=int, metavar="T", default=default.classes, help="categories"
        )
        _add_imbalance(parser, default)
    else:
        default = LVIS if kind else SEM_SEG
        _add_scene_options(parser, default, lvis=bool(kind))
    folder = Path(datasets_root()) / default.name
    parser.add_argument("--output", type=Path, metavar="DIR", default=folder, help="folder")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files")
    parser.add_argument(
        "--workers", type=int, metavar="N", default=available_cores(), help="processes"
    )
    return parser


def _add_classification_options(parser: argparse.ArgumentParser, default: Images) -> None:
    parser.add_argument(
        "--classes", type=int, metavar="K", default=default.classes, help="number of classes"
    )
    _add_image_options(parser, default, "training images of the most frequent class")


def _add_image_options(
    parser: argparse.ArgumentParser, default: Images | Digits, number: str
) -> None:
    parser.add_argument("--images", type=int, metavar="N", default=default.images, help=number)
    _add_imbalance(parser, default)


def _add_imbalance(parser: argparse.ArgumentParser, default: Images | Digits | Hued) -> None:
    parser.add_argument(
        "--imbalance",
        type=float,
        metavar="IF",
        default=default.imbalance,
        help="training images of the most frequent class / of the rarest",
    )


def _add_split_options(parser: argparse.ArgumentParser, default: Scenes | Hued) -> None:
    for option, number, split in (
        ("--num-train", default.num_train, "training"),
        ("--num-val", default.num_val, "validation"),
    ):
        parser.add_argument(option, type=int, metavar="N", default=number, help=f"{split} images")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", default=default.size, help="image side"
    )


def _add_scene_options(parser: argparse.ArgumentParser, default: Scenes, lvis: bool) -> None:
    _add_split_options(parser, default)
    parser.add_argument(
        "--classes",
        type=int,
        metavar="K",
        default=default.classes,
        help=f"number of classes; {default.stuff} of the default are stuff"
        + (", the others are the categories" if lvis else ""),
    )
    parser.add_argument(
        "--region-imbalance",
        type=float,
        metavar="RIF",
        default=default.region_imbalance,
        help="images with the most frequent class / with the rarest, in training",
    )
    if not lvis:
        parser.add_argument(
            "--pixel-imbalance",
            type=float,
            metavar="PIF",
            default=default.pixel_imbalance,
            help="pixels of the most frequent class / of the rarest, in training",
        )


# What messages call a parameter: the flag that sets it.
FLAGS = {
    "region_imbalance": "--region-imbalance",
    "pixel_imbalance": "--pixel-imbalance",
    "num_classes": "--classes",
    "num_categories": "--classes",
    "max_images": "--images",
    "num_train": "--images",
    "image_size": "--size",
    "imbalance": "--imbalance",
}


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows default values, and the commands of the description line by line."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    kinds = [kind for kind in KINDS if f"--{kind}" in arguments]
    if len(kinds) > 1:
        raise SystemExit("error: choose one of --lvis, --hued, --classification and --digits")
    options = build_parser("".join(kinds)).parse_args(arguments)
    with ending_in_one_line():
        generate(options)
    print(f"folder: {options.output}")


def generate(options: argparse.Namespace) -> None:
    """Write the data set, and print how often its classes occur.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError: bad options; the message names the flags.
        OSError: the files cannot be written.
    """
    try:
        if options.classification:
            _make_classification(options)
        elif options.digits:
            _make_digits(options)
        elif options.lvis:
            _make_lvis(options)
        elif options.hued:
            _make_hued(options)
        else:
            _make_sem_seg(options)
    except ValueError as error:
        parameters = rf"\b({'|'.join(FLAGS)})\b"
        message = re.sub(parameters, lambda match: FLAGS[match[0]], str(error))
        raise ValueError(message) from error


def _make_sem_seg(options: argparse.Namespace) -> None:
    from longtail.data.formats.generated import SPLITS
    from longtail.data.synthetic import SyntheticConfig, write_dataset

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
    _print_counts({"class": meta["classes"]}, meta, {"images": "image", "pixels": "pixel"}, SPLITS)
    for name, counts in (("pixel", "pixel_count"), ("region", "image_count")):
        factors = (max(meta[counts][split]) / min(meta[counts][split]) for split in SPLITS)
        print("{} imbalance factor: train {:.1f}, val {:.1f}".format(name, *factors))


def _make_lvis(options: argparse.Namespace) -> None:
    from longtail.data.synthetic import LVIS_CONFIG

    config = replace(
        LVIS_CONFIG,
        num_classes=options.classes,
        image_size=(options.size, options.size),
        region_imbalance=options.region_imbalance,
        # Plays no part here, and may not be smaller.
        pixel_imbalance=options.region_imbalance,
        seed=options.seed,
    )
    _make_instances(options, config)


def _make_hued(options: argparse.Namespace) -> None:
    from longtail.data.synthetic import HuedConfig

    config = HuedConfig(
        num_categories=options.classes,
        image_size=(options.size, options.size),
        imbalance=options.imbalance,
        seed=options.seed,
    )
    _make_instances(options, config)


def _make_instances(options: argparse.Namespace, config: "SyntheticConfig | HuedConfig") -> None:
    from longtail.data.formats.generated import SPLITS
    from longtail.data.statistics.groups import LETTERS
    from longtail.data.synthetic import write_lvis_dataset

    meta = write_lvis_dataset(
        options.output, options.num_train, options.num_val, config, options.workers
    )
    columns = {"category": meta["categories"], "frequency": meta["frequency"]}
    _print_counts(columns, meta, {"images": "image", "instances": "instance"}, SPLITS)
    for letter, name in LETTERS.items():
        members = [i for i, other in enumerate(meta["frequency"]) if other == letter]
        train, val = (sum(meta["instance_count"][s][i] for i in members) for s in SPLITS)
        print(f"{name}: {len(members)} categories, {train} instances in train, {val} in val")


def _make_classification(options: argparse.Namespace) -> None:
    from longtail.data.formats.generated import LT_SPLITS
    from longtail.data.statistics.groups import shot_groups
    from longtail.data.synthetic import write_classification_dataset

    meta = write_classification_dataset(
        options.output,
        num_classes=options.classes,
        imbalance=options.imbalance,
        max_images=options.images,
        seed=options.seed,
        num_workers=options.workers,
    )
    _print_counts({"class": meta["classes"]}, meta, {"images": "image"}, LT_SPLITS)
    for name, members in shot_groups(meta["image_count"]["train"]).items():
        train = sum(meta["image_count"]["train"][index] for index in members)
        print(f"{name}: {len(members)} classes, {train} images in train")


def _make_digits(options: argparse.Namespace) -> None:
    from longtail.data.formats.generated import DIGIT_SPLITS
    from longtail.data.synthetic import DigitScenesConfig, write_digit_scenes

    config = DigitScenesConfig(options.images, options.imbalance, options.seed)
    meta = write_digit_scenes(options.output, config, options.workers)
    _print_counts({"class": meta["classes"]}, meta, {"images": "image"}, DIGIT_SPLITS)
    for name, members in meta["class_groups"].items():
        print(f"{name}: {', '.join(meta['classes'][index] for index in members)}")


def _print_counts(
    columns: dict[str, list],
    meta: dict[str, Any],
    kinds: dict[str, str],
    splits: Sequence[str],
) -> None:
    """Print a table of the counts of each class, and an empty line."""
    from tabulate import tabulate

    for split in splits:
        for title, kind in kinds.items():
            columns[f"{split} {title}"] = meta[f"{kind}_count"][split]
    print(tabulate(columns, headers="keys"))
    print()
