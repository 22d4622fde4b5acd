# SPDX-License-Identifier: Apache-2.0
"""Pack the images of a row of CIFAR-100-LT into 34 MB, for a machine without network.

    python benchmarks/device/pack_cifar100.py MOSAICS

Reads what ``longtail prepare cifar100_lt`` has made and writes a lossless WebP mosaic for each
class and an index.json: one of the forms that ``longtail prepare cifar100_lt --source MOSAICS``
reads there. As 20,847 PNG files they would be 48 MB.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import longtail.data  # noqa: F401  (registers the data sets)
from longtail.data.formats.images import read_image
from longtail.data.prepare.cifar_lt import SIDE, TILES
from longtail.utils.errors import ending_in_one_line
from longtail.utils.io import write_json

SPLITS = {"train": "cifar100_lt_if100_train", "test": "cifar100_lt_test"}


def mosaic(files: list[str]) -> Image.Image:
    """Put images of 32 x 32 pixels side by side, 25 a row; the rest of the last row is black."""
    tiles = np.zeros((-(-len(files) // TILES) * TILES, SIDE, SIDE, 3), np.uint8)
    for place, file in enumerate(files):
        tiles[place] = read_image(file, "RGB")
    rows = tiles.reshape(-1, TILES, SIDE, SIDE, 3).swapaxes(1, 2)
    return Image.fromarray(rows.reshape(-1, TILES * SIDE, 3))


def pack(folder: Path, splits: dict[str, str]) -> int:
    """Write the mosaics of some data sets.

    Args:
        folder: where to.
        splits: the registered name of ``train`` and of ``test``, with the same classes.

    Returns:
        The bytes of all files.
    """
    index: dict[str, list] = {}
    for split, name in splits.items():
        records = DatasetCatalog.get(name)
        index["classes"] = list(MetadataCatalog.get(name).thing_classes)
        of_class: list[list[str]] = [[] for _ in index["classes"]]
        for record in records:
            of_class[record["label"]].append(record["file_name"])
        index[f"{split}_counts"] = [len(files) for files in of_class]
        (folder / split).mkdir(parents=True, exist_ok=True)

        def write(label: int, files: list[list[str]] = of_class, split: str = split) -> None:
            path = folder / split / f"{label:03d}_{index['classes'][label]}.webp"
            mosaic(files[label]).save(path, lossless=True, quality=100, method=4)

        with ThreadPoolExecutor() as executor:
            list(executor.map(write, range(len(of_class))))
    write_json(folder / "index.json", index)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Write the mosaics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the mosaics")
    folder = parser.parse_args().folder
    with ending_in_one_line():
        print(f"{folder}: {pack(folder, SPLITS) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
