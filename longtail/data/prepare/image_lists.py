# SPDX-License-Identifier: Apache-2.0
"""ImageNet-LT, Places-LT and iNaturalist 2018 need no conversion: they are used as they come.

What can be wrong is that a list or images are absent, in another place, or of another version. Of
ImageNet, the list of all training images is written.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets import imagenet_lt, inaturalist, places_lt
from longtail.data.datasets.files import IMAGE_SUFFIXES
from longtail.data.formats.image_list import image_list_text
from longtail.data.prepare.runner import Report
from longtail.data.prepare.writing import write_if_changed


@dataclass(frozen=True)
class Benchmark:
    """Lists, images and registration that belong to a data set.

    Attributes:
        name: of the command line; the registered names are ``name_split``.
        register: registers it under the folder of all data sets.
        sizes: the published number of images of each split.
        folders: where the images of each split are, under the folder of all data sets.
        archives: what is unpacked in each of these folders.
        lists: where the lists come from.
    """

    name: str
    register: Callable[[str], None]
    sizes: dict[str, int]
    folders: dict[str, str]
    archives: dict[str, str]
    lists: str


def _train_train_val(images: str) -> dict[str, str]:
    """Name the folders of the two benchmarks whose test set is the official validation set."""
    return {"train": f"{images}/train", "val": f"{images}/train", "test": f"{images}/val"}


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="imagenet_lt",
            register=imagenet_lt.register_imagenet_lt,
            sizes=imagenet_lt.SIZES,
            folders=_train_train_val(imagenet_lt.IMAGES),
            archives={
                f"{imagenet_lt.IMAGES}/{split}": f"ILSVRC2012_img_{split}.tar, a folder a class,"
                for split in ("train", "val")
            },
            lists="the authors' ImageNet_LT",
        ),
        Benchmark(
            name="places_lt",
            register=places_lt.register_places_lt,
            sizes=places_lt.SIZES,
            folders=_train_train_val(places_lt.IMAGES),
            archives={
                f"{places_lt.IMAGES}/{split}": f"places365standard_easyformat.tar's {split}"
                for split in ("train", "val")
            },
            lists="the authors' Places_LT",
        ),
        Benchmark(
            name=inaturalist.NAME,
            register=inaturalist.register_inaturalist,
            sizes=inaturalist.SIZES,
            folders=dict.fromkeys(inaturalist.SIZES, f"{inaturalist.NAME}/train_val2018"),
            archives={f"{inaturalist.NAME}/train_val2018": "train_val2018.tar.gz"},
            lists="{train,val}2018.json.tar.gz",
        ),
    )
}


def check_image_lists(name: str, root: str, splits: list[str] | None = None) -> Report:
    """Look for what the registered sets of a benchmark need, and complete ``imagenet_full_train``.

    Every list is read as for training, and every image looked for, without opening it. Without
    the folders of the images the lists are still checked.

    Args:
        name: one of ``BENCHMARKS``.
        root: the folder that holds the data sets.
        splits: those to check, all if not given.

    Returns:
        ``skipped``: lists that are as they should be; ``written``: the list of all training images
        of ImageNet, where it was not there; ``problems``: what is missing, where it belongs, and
        what is wrong; ``warnings``: lists of another length than the published ones.

    Raises:
        ValueError: there is no such split.
    """
    benchmark = BENCHMARKS[name]
    unknown = [split for split in splits or () if split not in benchmark.sizes]
    if unknown:
        raise ValueError(f"{name} has no split {unknown[0]!r}, only {', '.join(benchmark.sizes)}")
    benchmark.register(root)
    report = Report()
    splits = splits or list(benchmark.sizes)
    absent = set()
    for folder in dict.fromkeys(benchmark.folders[split] for split in splits):
        path = os.path.join(root, folder)
        if not os.path.isdir(path):
            absent.add(folder)
            report.problems.append(f"{path}: missing; unpack {benchmark.archives[folder]} there")
    records = {}
    for split in splits:
        found = _check_split(benchmark, split, benchmark.folders[split] not in absent, report)
        if found is not None:
            records[split] = found
    _check_shared_images(name, records, report)
    if name == "imagenet_lt" and not report.problems and {"train", "val"} <= records.keys():
        written = write_full_train_list(root, records["train"], records["val"])
        report.written += written
        report.skipped += not written
    return report


def _check_split(
    benchmark: Benchmark, split: str, with_images: bool, report: Report
) -> list[dict] | None:
    """Read the records of a split; None if it is wrong or its images are not looked for."""
    name = f"{benchmark.name}_{split}"
    metadata = MetadataCatalog.get(name)
    if not os.path.isfile(metadata.list_file):
        report.problems.append(
            f"{metadata.list_file}: missing; put the list of {benchmark.lists} there"
        )
        return None
    try:
        records = DatasetCatalog.get(name) if with_images else None
        number = len(metadata.load_labels() if records is None else records)
    except (ValueError, OSError) as error:
        report.problems.append(str(error))
        return None
    expected = benchmark.sizes[split]
    if number != expected:
        report.warnings.append(
            f"{metadata.list_file}: {number} images, the published list has {expected}"
        )
    report.skipped += 1
    return records


def _check_shared_images(name: str, records: dict[str, list[dict]], report: Report) -> None:
    files = {split: {r["file_name"] for r in found} for split, found in records.items()}
    for first, second in itertools.combinations(files, 2):
        shared = files[first] & files[second]
        if shared:
            report.problems.append(
                f"{name}: {first} and {second} share {len(shared)} images, such as {min(shared)}: "
                "take both lists again from one source"
            )


def write_full_train_list(root: str, train: list[dict], val: list[dict]) -> bool:
    """Write the list of ``imagenet_full_train``, unless it is there.

    Args:
        root: the folder that holds the data sets.
        train: the records of ``imagenet_lt_train``: they say which folder is which class.
        val: those of ``imagenet_lt_val``, whose images are left out.

    Returns:
        Whether it was written.
    """
    image_root = os.path.join(root, imagenet_lt.IMAGES)
    labels = {os.path.dirname(record["file_name"]): record["label"] for record in train}
    left_out = {record["file_name"] for record in val}
    files, file_labels = [], []
    for folder, label in sorted(labels.items(), key=lambda item: item[1]):
        for file_name in sorted(os.listdir(folder)):
            path = os.path.join(folder, file_name)
            if file_name.lower().endswith(IMAGE_SUFFIXES) and path not in left_out:
                files.append(os.path.relpath(path, image_root).replace(os.sep, "/"))
                file_labels.append(label)
    text = image_list_text(files, file_labels)
    return write_if_changed(imagenet_lt.full_train_list(root), text.encode())
