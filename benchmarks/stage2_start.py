# SPDX-License-Identifier: Apache-2.0
"""What the start of a training reads of LVIS's annotations: CPU seconds and memory.

    python benchmarks/stage2_start.py [--images 10017]

The file is generated, by default a tenth of LVIS v1's training set: 10,017 images, 1,203 classes,
13 annotations an image of about 860 bytes. Each figure is one of a fresh process: of the class
statistics, counted and kept, and of a start, which asks for statistics and training records.
Before: the records tell whether kept statistics hold, and are read for each of the two. Memory is
what the process needs on top of the imported libraries.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import in_child, memory, save_result, start_memory
from generated_annotations import write_annotations
from tabulate import tabulate

CLASSES = 1203
# Of LVIS v1's training set: 1,270,141 annotations of 100,170 images, 1.1 GB.
LVIS_IMAGES, INSTANCES, CORNERS = 100_170, 13, 47
NAME = "measured_train"


def measure(folder: str, work: str, before: bool) -> dict[str, float]:
    """CPU seconds and peak memory in MB, on top of the libraries, of one piece of work."""
    os.environ["LONGTAIL_CACHE"] = str(Path(folder) / ("before" if before else "after"))
    from detectron2.data import get_detection_dataset_dicts

    from longtail.data.datasets.lvis import register_lvis_instances
    from longtail.data.datasets.sharing import records_read_once
    from longtail.data.statistics import class_stats

    names = {"thing_classes": [f"category {c}" for c in range(CLASSES)]}
    register_lvis_instances(NAME, Path(folder) / "lvis.json", folder, metadata=names)
    if before:
        class_stats.annotation_file = lambda name: None
    start, held = time.process_time(), start_memory()
    if work == "statistics":
        class_stats.get_class_stats(NAME)
    elif before:
        class_stats.get_class_stats(NAME)
        get_detection_dataset_dicts([NAME])
    else:
        with records_read_once():
            class_stats.get_class_stats(NAME)
            get_detection_dataset_dicts([NAME])
    return {"CPU seconds": time.process_time() - start, "MB": memory("VmHWM") - held}


def run(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Measure all; each case's cache is what the case before it has left."""
    rows = []
    for before in (True, False):
        cases = [("statistics", "cold"), ("statistics", "warm"), ("start", "warm")]
        for work, state in cases:
            found = [in_child(measure, str(folder), work, before) for _ in range(repeats)]
            row = {"work": f"{work}, {state}", "code": "before" if before else "after"}
            for key in ("CPU seconds", "MB"):
                row[key] = round(statistics.median(item[key] for item in found), 3)
            rows.append(row)
            print(row, flush=True)
    (folder / "after" / "class_stats").rename(folder / "after" / "kept")
    found = in_child(measure, str(folder), "start", False)
    rows.append(
        {"work": "start, cold", "code": "after", **{k: round(v, 3) for k, v in found.items()}}
    )
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=LVIS_IMAGES // 10)
    parser.add_argument("--repeats", type=int, default=1, help="medians are of so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lvis.json"
        size = write_annotations(
            path, images=options.images, instances=INSTANCES, classes=CLASSES, corners=CORNERS
        )
        print(f"{size / 1e6:.0f} MB, {options.images} images")
        # As a file that lies there since yesterday.
        os.utime(path, (time.time() - 86400,) * 2)
        rows = run(Path(folder), options.repeats)
    print(tabulate(rows, headers="keys"))
    figures = {"images": options.images, "annotations": options.images * INSTANCES}
    figures |= {"file MB": round(size / 1e6, 1), "part of LVIS v1": options.images / LVIS_IMAGES}
    save_result("stage2_start", {**figures, "rows": rows})


if __name__ == "__main__":
    main()
