# SPDX-License-Identifier: Apache-2.0
"""Time of a class statistics pass, against the time that decoding its label maps takes.

    python benchmarks/class_statistics.py [--labels DIR]

Targets: one worker at most 2 times the decoding alone; two workers at least 1.6 times faster than
one. Without --labels the label maps are generated in the size of ADE20K's.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import save_result
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tabulate import tabulate

from longtail.data.statistics.class_stats import compute_class_stats

NUM_CLASSES = 150
HEIGHT, WIDTH = 512, 683
DATASET = "benchmark_class_statistics"


def generate_labels(folder: Path, count: int) -> None:
    """Write ``count`` label maps of smooth blobs, each of 2 to 20 of the classes."""
    generator = np.random.default_rng(0)
    for index in range(count):
        classes = generator.choice(NUM_CLASSES, generator.integers(2, 21), replace=False)
        best = np.full((HEIGHT, WIDTH), -np.inf, dtype=np.float32)
        labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for label in classes:
            noise = Image.fromarray(generator.standard_normal((12, 16), dtype=np.float32))
            height = np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
            labels[height > best] = label
            best = np.maximum(height, best)
        Image.fromarray(labels).save(folder / f"{index:05d}.png")


def decode_all(files: list[Path]) -> None:
    """Read every label map into an array in this thread, as a data loader does."""
    for file in files:
        with Image.open(file) as image:
            np.asarray(image)


def measure(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every function, taken in turn so that a slow moment of the machine hits all."""
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def run(folder: Path, repeats: int) -> None:
    """Measure the label maps in ``folder``, print the table and write the result."""
    files = sorted(folder.glob("*.png"))
    if not files:
        raise SystemExit(f"error: {folder} has no label maps (*.png); name the folder of them")
    records = [{"file_name": file.name, "sem_seg_file_name": str(file)} for file in files]
    DatasetCatalog.register(DATASET, lambda: records)
    # 255 names, so that any 8-bit label map can be measured.
    MetadataCatalog.get(DATASET).set(stuff_classes=[str(i) for i in range(255)], ignore_label=255)
    decode_all(files)  # the first read comes from the disk
    seconds = measure(
        {
            "decoding alone": lambda: decode_all(files),
            "pass, 1 worker": lambda: compute_class_stats(DATASET, num_workers=1),
            "pass, 2 workers": lambda: compute_class_stats(DATASET, num_workers=2),
        },
        repeats,
    )
    decode, one, two = (statistics.median(values) for values in seconds.values())
    rows = [[name, 1e3 * statistics.median(v) / len(files)] for name, v in seconds.items()]
    print(tabulate(rows, headers=["", "ms an image"], floatfmt=".3f"))
    print(f"1 worker / decoding alone: {one / decode:.2f} (target at most 2)")
    print(f"1 worker / 2 workers:      {one / two:.2f} (target at least 1.6)")
    with Image.open(files[0]) as image:
        size = f"{image.height}x{image.width}, mode {image.mode}"
    save_result(
        "class_statistics",
        {
            "images": len(files),
            "first_image": size,
            "mean_file_bytes": round(sum(file.stat().st_size for file in files) / len(files)),
            "repeats": repeats,
            "load_average_1_min": round(os.getloadavg()[0], 2),
            "median_ms_per_image": {name: round(value, 4) for name, value in rows},
            "one_worker_over_decoding": round(one / decode, 3),
            "speedup_of_two_workers": round(one / two, 3),
        },
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, metavar="DIR", help="a folder of 8-bit label PNGs")
    parser.add_argument("--images", type=int, default=400, help="generated label maps")
    parser.add_argument("--repeats", type=int, default=7, help="medians are over so many turns")
    options = parser.parse_args()
    if options.labels is not None:
        run(options.labels, options.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate_labels(Path(folder), options.images)
        run(Path(folder), options.repeats)


if __name__ == "__main__":
    main()
