# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10-LT and CIFAR-100-LT from the binary version of CIFAR, or from mosaics of its images.

The binary version has no pickles: a record is the label (CIFAR-100: the superclass, then the class)
and 3,072 bytes, red, green and blue planes of 32 x 32. A folder of mosaics has ``index.json``
(``classes``, ``train_counts``, ``test_counts``) and ``{train,test}/<number>_<class>.webp`` (or
``.png``): 25 images a row, of a class in its order.

Of each class the first images of the source are the training images: every data set with a higher
imbalance factor is a part of those with lower ones.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from longtail.data.datasets.cifar_lt import CIFARS, Cifar, list_file, training_sets
from longtail.data.formats.image_list import image_list_text
from longtail.data.formats.images import read_image
from longtail.data.prepare.runner import Report
from longtail.data.prepare.writing import write_if_changed
from longtail.utils.text import read_text

SIDE = 32
TILES = 25
WRITERS = 16
SPLITS = ("train", "test")
# Class index -> (n, 32, 32, 3) uint8, in order; asked once for each class and split.
Images = Callable[[str, int], np.ndarray]


def prepare_cifar_lt(name: str, root: str, source: str | None = None) -> Report:
    """Write the images as PNG files, and the lists of all splits.

    A training set for which the source has too few images is left out, with a warning.

    Args:
        name: ``"cifar10_lt"`` or ``"cifar100_lt"``.
        root: the folder that holds the data sets.
        source: the archive of the binary version, the folder that it unpacks to, or a folder of
            mosaics; by default the archive in ``root``.

    Returns:
        How many files were written, and how many were there already.

    Raises:
        FileNotFoundError: there is no source.
        ValueError: the source is not one of the three, or is damaged.
    """
    cifar = CIFARS[name]
    source = source or os.path.join(root, cifar.archive)
    names, images = _open(source, cifar)
    report, available = Report(), {}
    with ThreadPoolExecutor(WRITERS) as executor:
        for split, index in tqdm(_classes(cifar), f"classes of {name}"):
            folder = os.path.join(root, name, "images", split, names[index])
            of_class = images(split, index)
            available[split, index] = len(of_class)
            paths = [os.path.join(folder, f"{n:04d}.png") for n in range(len(of_class))]
            # Threads wait for the disk together.
            for written in executor.map(write_if_changed, paths, map(_png, of_class)):
                _count(report, written)
    wanted = {dataset: cifar.profile(factor) for dataset, factor in training_sets(name).items()}
    wanted[f"{name}_test"] = [cifar.test_images] * cifar.num_classes
    for dataset, counts in wanted.items():
        split = "test" if dataset.endswith("_test") else "train"
        lacking = [c for c, count in enumerate(counts) if available[split, c] < count]
        if lacking:
            c = lacking[0]
            report.warnings.append(
                f"{dataset} is left out: it needs {counts[c]} images of {names[c]}, and {source} "
                f"has {available[split, c]}"
            )
            continue
        text = _list_text(names, counts, split)
        _count(report, write_if_changed(list_file(root, name, dataset), text.encode()))
    return report


def _classes(cifar: Cifar) -> list[tuple[str, int]]:
    return [(split, index) for split in SPLITS for index in range(cifar.num_classes)]


def _count(report: Report, written: bool) -> None:
    report.written += written
    report.skipped += not written


def _list_text(names: list[str], counts: list[int], split: str) -> str:
    files = [
        (f"images/{split}/{names[label]}/{number:04d}.png", label)
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    return image_list_text(*zip(*files, strict=True))


def _open(source: str, cifar: Cifar) -> tuple[list[str], Images]:
    """The names of the classes, and a function that gives the images of one."""
    if os.path.isfile(os.path.join(source, "index.json")):
        return _open_mosaics(Path(source), cifar)
    if not os.path.exists(source):
        raise FileNotFoundError(
            f"{source} does not exist: download the binary version of CIFAR ({cifar.archive}), or "
            "name the archive or its folder with --source"
        )
    files = dict(_archive_files(source))
    if cifar.names_file not in files:
        raise ValueError(
            f"{source} lacks {cifar.names_file}: expected the content of {cifar.archive}, or "
            "mosaics with an index.json"
        )
    names = files[cifar.names_file].decode().split()
    if len(names) != cifar.num_classes:
        raise ValueError(
            f"{source}: {cifar.names_file} has {len(names)} classes, expected {cifar.num_classes}"
        )
    return names, _binary_images(source, files, cifar)


def _archive_files(source: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of the binary version, the batches in their order."""
    if os.path.isdir(source):
        for path in sorted(Path(source).rglob("*")):
            if path.suffix in (".bin", ".txt"):
                yield path.name, path.read_bytes()
        return
    try:
        with tarfile.open(source) as archive:
            for member in sorted(archive.getmembers(), key=lambda item: item.name):
                # Read in place, nothing is unpacked: names inside cannot lead anywhere.
                if member.isfile() and member.name.endswith((".bin", ".txt")):
                    yield os.path.basename(member.name), archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{source} is not a whole archive ({error}): download it again") from None


def _binary_images(source: str, files: dict[str, bytes], cifar: Cifar) -> Images:
    size = cifar.label_bytes + 3 * SIDE * SIDE
    records = {}
    for split in SPLITS:
        parts = [content for file, content in files.items() if _is_of_split(file, split)]
        joined = b"".join(parts)
        number = cifar.num_classes * (cifar.train_images, cifar.test_images)[split == "test"]
        if len(joined) != number * size:
            raise ValueError(
                f"{source}: the {split} images have {len(joined)} bytes, expected {number * size}: "
                "download it again"
            )
        records[split] = np.frombuffer(joined, np.uint8).reshape(number, size)

    def images(split: str, index: int) -> np.ndarray:
        rows = records[split]
        of_class = rows[rows[:, cifar.label_bytes - 1] == index, cifar.label_bytes :]
        return of_class.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)

    return images


def _is_of_split(file: str, split: str) -> bool:
    # CIFAR-10 has data_batch_1.bin .. data_batch_5.bin and test_batch.bin.
    return file.endswith(".bin") and ("test" in file) == (split == "test")


def _open_mosaics(source: Path, cifar: Cifar) -> tuple[list[str], Images]:
    try:
        index = json.loads(read_text(source / "index.json"))
        names = [str(name) for name in index["classes"]]
        counts = {split: [int(n) for n in index[f"{split}_counts"]] for split in SPLITS}
        if {len(names), *map(len, counts.values())} != {cifar.num_classes}:
            raise ValueError(f"expected {cifar.num_classes} classes")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source / 'index.json'} is not an index of mosaics: {error}") from None

    def images(split: str, index: int) -> np.ndarray:
        found = sorted((source / split).glob(f"{index:03d}_*"))
        if not found:
            raise FileNotFoundError(f"{source / split} lacks the mosaic of {names[index]}")
        mosaic = read_image(found[0], "RGB")
        tiles = mosaic.reshape(-1, SIDE, TILES, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
        number = counts[split][index]
        if len(tiles) < number:
            raise ValueError(f"{found[0]} has {len(tiles)} images, index.json says {number}")
        return tiles[:number]

    return names, images


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
