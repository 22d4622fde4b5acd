# SPDX-License-Identifier: Apache-2.0
"""Time per image of our semantic evaluator against detectron2's `SemSegEvaluator.process`.

Both get the same logits and read the same ground truth file, one after the other in every round,
so that the ratio comes from one run; on a CPU it is of CPU time. "smooth" logits are
low-resolution noise upsampled
bilinearly, with about as many regions as a real prediction; "noise" logits are independent at
every pixel, the worst case for detectron2's RLEs and for memory access.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from branch_cost import now
from common import save_result
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator as Detectron2Evaluator
from PIL import Image

from longtail.evaluation import SemSegEvaluator
from longtail.evaluation.sem_seg.metrics import as_class_map, confusion_matrix

DATASET = "benchmark_sem_seg_evaluator"
IGNORE_LABEL = 255


def main() -> None:
    """Measure, print a table, write ``results/sem_seg_evaluator.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 683), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (after one more)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        label_file = Path(folder) / "label.png"
        register(label_file, args.classes, args.size)
        figures = {
            "classes": args.classes,
            "size": list(args.size),
            "rounds": args.rounds,
            "threads": torch.get_num_threads(),
        }
        for name, logits in (
            ("smooth", smooth_logits(args.classes, args.size, seed=1)),
            ("noise", noise_logits(args.classes, args.size, seed=1)),
        ):
            figures[name] = measure(logits, label_file, args.rounds)
            report(name, figures[name])
    save_result("sem_seg_evaluator", figures)


def smooth_logits(num_classes: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """(K, H, W) logits whose argmax has some 10 to 25 regions."""
    grid = torch.randn(1, num_classes, 3, 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(grid, size=tuple(size), mode="bilinear", align_corners=False)[0]


def noise_logits(num_classes: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """(K, H, W) independent logits."""
    return torch.randn(num_classes, *size, generator=torch.Generator().manual_seed(seed))


def register(label_file: Path, num_classes: int, size: tuple[int, int]) -> None:
    """A data set of one image; 5 % of its label map are ignored."""
    labels = smooth_logits(num_classes, size, seed=0).argmax(dim=0).numpy().astype(np.uint8)
    labels[: size[0] // 20] = IGNORE_LABEL
    Image.fromarray(labels).save(label_file)
    records = [{"file_name": "image.jpg", "sem_seg_file_name": str(label_file)}]
    DatasetCatalog.register(DATASET, lambda: records)
    MetadataCatalog.get(DATASET).set(
        stuff_classes=[str(index) for index in range(num_classes)],
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg",
    )


def measure(logits: torch.Tensor, label_file: Path, rounds: int) -> dict[str, float]:
    """Milliseconds per image (medians), their ratio, and where the time goes.

    The logits may be on any device.
    """
    num_classes = len(logits)
    ours = SemSegEvaluator(DATASET, distributed=False)
    theirs = Detectron2Evaluator(DATASET, distributed=False)
    theirs.reset()
    check_identical(theirs, logits, label_file)

    inputs, outputs = [{"file_name": "image.jpg"}], [{"sem_seg": logits}]
    target = torch.from_numpy(np.array(Image.open(label_file))).to(logits.device)
    prediction = as_class_map(logits, "image.jpg")
    steps: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.process(inputs, outputs),
        "detectron2": lambda: theirs.process(inputs, outputs),
        "argmax of ours": lambda: as_class_map(logits, "image.jpg"),
        "argmax of torch": lambda: logits.argmax(dim=0),
        "reading the label map": lambda: np.array(Image.open(label_file)),
        "confusion matrix": lambda: confusion_matrix(prediction, target, num_classes),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock = now if logits.is_cuda else time.process_time
    for index in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if index > 0:
                times[name].append(1000 * (clock() - start))
        theirs.reset()  # it keeps all RLEs
    figures: dict[str, float] = {f"{n} (ms)": statistics.median(t) for n, t in times.items()}
    ratios = [d / o for o, d in zip(times["ours"], times["detectron2"], strict=True)]
    figures["predicted classes"] = len(prediction.unique())
    figures["times faster"] = figures["detectron2 (ms)"] / figures["ours (ms)"]
    figures["times faster, median of rounds"] = statistics.median(ratios)
    figures["times faster, best times"] = min(times["detectron2"]) / min(times["ours"])
    return figures


def check_identical(theirs: Detectron2Evaluator, logits: torch.Tensor, label_file: Path) -> None:
    """Raise if the two count different confusion matrices of one image.

    Raises:
        RuntimeError: the matrices differ.
    """
    num_classes = len(logits)
    theirs.process([{"file_name": "image.jpg"}], [{"sem_seg": logits}])
    target = torch.from_numpy(np.array(Image.open(label_file))).to(logits.device)
    counts = confusion_matrix(as_class_map(logits, "image.jpg"), target, num_classes)
    # detectron2 keeps the prediction in the rows and the ignored pixels in an extra column.
    expected = theirs._conf_matrix[:num_classes, :num_classes].T
    if not np.array_equal(counts.cpu().numpy(), expected):
        raise RuntimeError("the confusion matrix differs from detectron2's")


def report(name: str, figures: dict[str, float]) -> None:
    """Print the figures of one kind of logits."""
    print(f"\n{name} logits")
    for key, value in figures.items():
        print(f"  {key:32s} {value:8.2f}")


if __name__ == "__main__":
    main()
