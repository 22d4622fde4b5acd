# SPDX-License-Identifier: Apache-2.0
"""Cost curves: how class statistics, losses and LVIS's metrics grow with the data.

    python benchmarks/scale.py

Three minutes on one core. Seconds are the processor's, so that a busy machine does not count. The
exponent is that of the last step of a curve, log(cost ratio) / log(size ratio): 1 is linear, and
what is above 1.15 is said to be worse. Of processes it is -1 where work is shared without loss.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from class_statistics import NUM_CLASSES, generate_labels
from common import save_result
from detectron2.data import DatasetCatalog, MetadataCatalog
from disalign.calibration import AdaptiveCalibration
from disalign.functional import alignment_loss
from generated_annotations import write_annotations
from generated_lvis import generate
from lvis_evaluator import measure_ours
from tabulate import tabulate

from longtail.data.datasets.lvis import register_lvis_instances
from longtail.data.statistics.class_stats import get_class_stats
from longtail.losses.cross_entropy import cross_entropy
from longtail.losses.functional import seesaw_loss

NAME = "measured_scale"
CLASSES = (100, 1000, 5000, 20_000)
# RoIs of an image, and channels of their features.
SAMPLES, CHANNELS = 512, 1024
WORSE = 1.15
Curve = dict[int, float]


def seconds(function: Callable[[], object], repeats: int = 1) -> float:
    """Processor seconds of a call, the median of several."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return statistics.median(found)


def statistics_curves(folder: Path, sizes: tuple[int, ...]) -> dict[str, Curve]:
    """Class statistics by annotations, ten an image, boxes alone: counted, and kept."""
    os.environ["LONGTAIL_CACHE"] = str(folder / "cache")
    counted, hashed, kept = {}, {}, {}
    path = folder / "annotations.json"
    for size in sizes:
        write_annotations(path, images=size // 10, instances=10, classes=1203)
        names = {"thing_classes": [f"category {c}" for c in range(1203)]}
        register_lvis_instances(NAME, path, folder, metadata=names)
        counted[size] = seconds(lambda: get_class_stats(NAME))
        # Of a file that is too new for its digest to be kept.
        os.utime(path)
        hashed[size] = seconds(lambda: get_class_stats(NAME), 3)
        os.utime(path, (time.time() - 86400,) * 2)
        get_class_stats(NAME)
        kept[size] = seconds(lambda: get_class_stats(NAME), 5)
    return {
        "class statistics, counted": counted,
        "class statistics, kept, file hashed": hashed,
        "class statistics, kept": kept,
    }


def class_curves() -> dict[str, Curve]:
    """A step, forward and backward, of losses on 512 RoIs by the number of classes."""
    curves: dict[str, Curve] = {}
    for size in CLASSES:
        for name, step in _steps(size).items():
            step()
            curves.setdefault(name, {})[size] = seconds(step, 5)
    return curves


def _steps(size: int) -> dict[str, Callable[[], None]]:
    torch.manual_seed(0)
    logits = torch.randn(SAMPLES, size, requires_grad=True)
    features = torch.randn(SAMPLES, CHANNELS)
    classes = torch.randint(0, size, (SAMPLES,))
    counts = 1e4 / torch.arange(1, size + 1)
    weights = counts.mean() / counts
    calibration = AdaptiveCalibration(size, CHANNELS)
    # Of a frozen classifier, whose logits need no gradient.
    frozen = logits.detach()
    losses = {
        "cross-entropy, a step": lambda: cross_entropy(logits, classes),
        "balanced softmax, a step": lambda: cross_entropy(logits, classes, class_prior=counts),
        "seesaw loss, a step": lambda: seesaw_loss(logits, classes, counts, 0.8, 2.0).mean(),
        "DisAlign calibration, a step": lambda: alignment_loss(
            calibration(frozen, features), classes, weights
        ),
    }

    def stepping(loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: loss().backward()

    return {name: stepping(loss) for name, loss in losses.items()}


def metric_curves(folder: Path, images: int) -> dict[str, Curve]:
    """LVIS's metrics of boxes and masks, from reading to AP, by classes, detections, images."""
    cases = {
        "LVIS metrics by classes": [(images, 300, size) for size in CLASSES],
        "LVIS metrics by detections an image": [(images, n, 1203) for n in (10, 30, 100, 300)],
        "LVIS metrics by images": [(images * n, 100, 1203) for n in (1, 2, 4)],
    }
    curves: dict[str, Curve] = {}
    for name, sizes in cases.items():
        axis = {"classes": 2, "image": 1, "images": 0}[name.split()[-1]]
        for size in sizes:
            generate(str(folder), *size)
            curves.setdefault(name, {})[size[axis]] = measure_ours(str(folder))["CPU s"]
    return curves


def process_curve(folder: Path, images: int) -> Curve:
    """Class statistics of label maps by processes: seconds of the one that takes longest."""
    generate_labels(folder, images)
    curve = {}
    for size in (1, 2):
        queue = multiprocessing.get_context("spawn").SimpleQueue()
        torch.multiprocessing.spawn(_count_maps, (size, folder, queue), size)
        curve[size] = max(queue.get() for _ in range(size))
    return curve


def _count_maps(rank: int, size: int, folder: Path, queue: Any) -> None:
    os.environ["LONGTAIL_CACHE"] = str(folder / f"cache of {size}")
    files = sorted(map(str, folder.glob("*.png")))
    records = [{"file_name": file, "sem_seg_file_name": file} for file in files]
    DatasetCatalog.register(NAME, lambda: records)
    names = [str(index) for index in range(NUM_CLASSES)]
    MetadataCatalog.get(NAME).set(stuff_classes=names, ignore_label=255)
    store = f"file://{folder / f'meeting of {size}'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    queue.put(seconds(lambda: get_class_stats(NAME, num_workers=1)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def exponent(curve: Curve) -> float:
    """The growth of the last step of a curve: cost ~ size^exponent."""
    (size, cost), (last_size, last) = list(curve.items())[-2:]
    return math.log(last / cost) / math.log(last_size / size)


def report(curves: dict[str, Curve]) -> dict[str, Any]:
    """Print the curves, their exponents, and which are worse than linear."""
    rows, figures = [], {}
    for name, curve in curves.items():
        growth = exponent(curve)
        figures[name] = {
            "CPU seconds": {str(size): round(cost, 5) for size, cost in curve.items()},
            "exponent of the last step": round(growth, 2),
        }
        points = "  ".join(f"{size:,}: {cost:.4g}" for size, cost in curve.items())
        rows.append([name, points, f"{growth:.2f}"])
    print(tabulate(rows, headers=["", "size: CPU seconds", "exponent"], disable_numparse=True))
    worse = [name for name, curve in curves.items() if exponent(curve) > WORSE]
    print(f"worse than linear: {', '.join(worse) or 'nothing'}")
    return {"curves": figures, "worse than linear": worse}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, nargs="+", default=[10**n for n in range(3, 7)])
    parser.add_argument("--images", type=int, default=50, help="of the metrics' curves")
    parser.add_argument("--label-maps", type=int, default=200, help="of the processes' curve")
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        curves = statistics_curves(folder, tuple(options.annotations))
        curves |= class_curves()
        curves |= metric_curves(folder, options.images)
        labels = folder / "labels"
        labels.mkdir()
        name = "class statistics of label maps by processes, the longest"
        curves[name] = process_curve(labels, options.label_maps)
    figures = report(curves)
    if not options.no_save:
        save_result("scale", figures)


if __name__ == "__main__":
    main()
