# SPDX-License-Identifier: Apache-2.0
"""From what the official sites ship to the layout that the registered data sets expect.

:func:`prepare_dataset` does it for one data set; ``longtail prepare`` is its command.
"""

from longtail.data.datasets.cifar_lt import CIFARS
from longtail.data.prepare.ade20k import ADE20K
from longtail.data.prepare.camvid import CAMVID
from longtail.data.prepare.camvid_instances import write_camvid_instances
from longtail.data.prepare.ccp import CCP
from longtail.data.prepare.cifar_lt import prepare_cifar_lt
from longtail.data.prepare.coco_stuff import COCO_STUFF_10K, COCO_STUFF_164K
from longtail.data.prepare.digits_lt import prepare_digits_lt
from longtail.data.prepare.image_lists import BENCHMARKS, check_image_lists
from longtail.data.prepare.iotkits_lt import prepare_iotkits_lt
from longtail.data.prepare.lvis import check_lvis
from longtail.data.prepare.runner import Report, prepare

__all__ = ["NAMES", "RECIPES", "Report", "prepare_dataset"]

RECIPES = {recipe.name: recipe for recipe in (ADE20K, COCO_STUFF_164K, COCO_STUFF_10K, CAMVID, CCP)}
NAMES = (*RECIPES, "camvid_instances", "lvis", "iotkits_lt", *BENCHMARKS, "digits_lt", *CIFARS)


def prepare_dataset(
    name: str,
    root: str,
    *,
    source: str | None = None,
    splits: list[str] | None = None,
    workers: int | None = None,
    seed: int | None = None,
) -> Report:
    """Convert the label maps of a data set, and complete its layout under ``root``.

    ``"camvid_instances"`` derives objects from CamVid's converted label maps and takes none of the
    options. ``"lvis"``, ``"imagenet_lt"``, ``"places_lt"`` and ``"inaturalist2018"`` only check
    what is there and take the splits alone. ``"digits_lt"`` takes the digits from scikit-learn and
    takes the seed alone; ``"iotkits_lt"``, ``"cifar10_lt"`` and ``"cifar100_lt"`` take the source
    alone.

    May be stopped and called again: every file is written atomically, and what exists and is
    newer than its source is skipped. A faulty file does not keep the others from being written.

    Args:
        name: one of ``NAMES``.
        root: the folder that holds the data sets.
        source: the folder with the content of the official archive, its place under ``root`` if
            not given. From another place the images are copied, too.
        splits: the splits to do, all if not given.
        workers: threads, as many as the process has processors if not given.
        seed: of the drawn splits, not negative; 0 if not given.

    Returns:
        What was done, and what is wrong with the source.

    Raises:
        ValueError: unknown name or split, a number of workers below 1, or an option that the data
            set does not take.
        ImportError: a package that holds the data is not installed.
        FileNotFoundError: there is no source.
        OSError: a file cannot be written.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; expected one of {', '.join(NAMES)}")
    if name not in RECIPES and workers is not None:
        raise ValueError(f"{name} has no label maps to convert: it takes no --workers")
    if name not in (*RECIPES, "iotkits_lt", *CIFARS) and source is not None:
        raise ValueError(f"{name} has no source to convert: it takes no --source")
    if seed is not None and name != "digits_lt":
        raise ValueError(f"{name} has nothing to draw: it takes no --seed")
    if splits is not None and name in ("camvid_instances", "iotkits_lt", "digits_lt", *CIFARS):
        raise ValueError(f"{name} takes no --splits: it makes all of them together")
    if name == "lvis":
        return check_lvis(root, splits)
    if name == "camvid_instances":
        return write_camvid_instances(root)
    if name == "iotkits_lt":
        return prepare_iotkits_lt(root, source)
    if name in BENCHMARKS:
        return check_image_lists(name, root, splits)
    if name in CIFARS:
        return prepare_cifar_lt(name, root, source)
    if name == "digits_lt":
        return prepare_digits_lt(root, seed or 0)
    return prepare(RECIPES[name], root, source=source, splits=splits, workers=workers)
