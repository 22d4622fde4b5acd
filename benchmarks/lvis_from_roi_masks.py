# SPDX-License-Identifier: Apache-2.0
"""A whole LVIS evaluation, from what a detector gives: ours against detectron2's and lvis-api.

Both sides have the same boxes, scores, classes and masks of 28 x 28 as a Mask R-CNN gives them,
made outside of the time. Timed is all that is left of a test:

- detectron2: `ROIMasks.to_bitmasks`, with which its models paste their masks into the image, the
  `process` of its `LVISEvaluator`, and `evaluate`, which calls lvis-api for boxes and for masks.
- ours: `process` and `evaluate` of our `LVISEvaluator`, which takes the masks of 28 x 28 and leaves
  out what the federated rules cannot count; once more with all detections in the results file
  (`TEST.LVIS.KEEP_ALL_DETECTIONS`), so that all masks are encoded as well.

Each writes its results files. Opening the annotation file is timed as well. Each side runs in a
process of its own, one after the other and again; the figures are medians of CPU time, in one
thread. Memory is the peak less what the process held before, as in `lvis_evaluator.py`; the masks
of one image are made at a time.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import in_child, memory, save_result, start_memory
from generated_lvis import HEIGHT, WIDTH, Stored, generate
from lvis_evaluator import import_lvis_api

SIZE = 28
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
ALL = "ours, all detections written"
SIDES = ("ours", ALL, "detectron2")


def main() -> None:
    """Generate, measure, compare, write ``results/lvis_from_roi_masks.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--detections", type=int, default=300, help="an image")
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    args = parser.parse_args()

    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        generate(folder, args.images, args.detections, args.categories)
        for _ in range(args.rounds):
            for side in SIDES:
                found[side].append(in_child(measure, side, folder))
                print(side, {k: v for k, v in found[side][-1].items() if k != "AP"}, flush=True)
    figures: dict[str, Any] = {
        "images": args.images,
        "detections an image": args.detections,
        "categories": args.categories,
        "rounds": args.rounds,
        **{side: medians(rounds) for side, rounds in found.items()},
    }
    theirs, differences = figures["detectron2"], []
    for side in SIDES[:-1]:
        own = figures[side]
        by_round = zip(found[side], found["detectron2"], strict=True)
        figures[f"of {side}"] = {
            "times less CPU": theirs["CPU s"] / own["CPU s"],
            "times less CPU, by rounds": [b["CPU s"] / a["CPU s"] for a, b in by_round],
            "share of the memory": own["MB"] / theirs["MB"],
        }
        differences += [
            abs(np.nan_to_num(own["AP"][task][name], nan=-1) - value)
            for task, values in theirs["AP"].items()
            for name, value in values.items()
        ]
    figures["largest difference of a figure"] = float(max(differences))
    for name, value in figures.items():
        print(name, value)
    if max(differences) > 1e-10:
        raise RuntimeError("the figures differ from detectron2's")
    if not args.no_save:
        save_result("lvis_from_roi_masks", figures)


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure; AP are those of the first round."""
    numbers = [key for key in rounds[0] if key != "AP"]
    return {key: median(found[key] for found in rounds) for key in numbers} | {
        "AP": rounds[0]["AP"]
    }


def measure(side: str, folder: str) -> dict[str, Any]:
    """CPU seconds, MB and figures of one side."""
    setattr(np, "float", float)  # noqa: B010 (lvis-api still uses what numpy dropped)
    import_lvis_api()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    torch.set_num_threads(1)
    name = "measured"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(json_file=str(Path(folder) / "annotations.json"))
    build, prepare = detectron2s() if side == "detectron2" else ours(side == ALL)
    stored, parts = Stored(folder), {}
    before = start_memory()
    output = tempfile.mkdtemp(dir=folder)
    start = time.process_time()
    evaluator = build(name, output)
    evaluator.reset()
    parts["opening (CPU s)"] = time.process_time() - start
    parts["images (CPU s)"] = 0.0
    for record, instances in predictions(stored):
        start = time.process_time()
        prepare(instances)
        evaluator.process([record], [{"instances": instances}])
        parts["images (CPU s)"] += time.process_time() - start
    start = time.process_time()
    results = evaluator.evaluate()
    parts["evaluate (CPU s)"] = time.process_time() - start
    return {
        "CPU s": sum(parts.values()),
        **parts,
        "ms an image": 1e3 * parts["images (CPU s)"] / len(stored.category),
        "MB": memory("VmHWM") - before,
        "AP": {task: {key: float(found[key]) for key in NAMES} for task, found in results.items()},
    }


def ours(write_all: bool) -> tuple[Any, Any]:
    """Our evaluator, and what our inference does before it: nothing."""
    from longtail.evaluation import LVISEvaluator

    build = functools.partial(LVISEvaluator, keep_all_detections=write_all)
    return build, lambda instances: None


def detectron2s() -> tuple[Any, Any]:
    """detectron2's evaluator, and the pasting at the end of its inference."""
    from detectron2.evaluation import LVISEvaluator

    def paste(instances: Any) -> None:
        masks = instances.pred_masks.to_bitmasks(instances.pred_boxes, HEIGHT, WIDTH)
        instances.pred_masks = masks.tensor

    return lambda name, folder: LVISEvaluator(name, distributed=False, output_dir=folder), paste


def predictions(stored: Stored) -> Iterator[tuple[dict[str, int], Any]]:
    """The stored detections, with soft ellipses of random sizes, places and edges for masks."""
    from detectron2.structures import Boxes, Instances, ROIMasks

    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for n, (category, score, box) in enumerate(
        zip(stored.category, stored.score, stored.box, strict=True)
    ):
        rng = np.random.default_rng(n)
        a, b, sharp = (rng.uniform(*ends, (len(box), 1, 1)) for ends in ((9, 15), (9, 15), (5, 30)))
        cx, cy = (rng.normal(SIZE / 2, 1, (len(box), 1, 1)) for _ in range(2))
        inside = 1 - np.hypot((x - cx) / a, (y - cy) / b) + rng.normal(0, 0.02, (len(box), 28, 28))
        masks = 1 / (1 + np.exp(-sharp * inside))
        corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)
        instances = Instances(
            (HEIGHT, WIDTH),
            pred_boxes=Boxes(torch.tensor(corners, dtype=torch.float32)),
            scores=torch.tensor(score),
            pred_classes=torch.tensor(category),
            pred_masks=ROIMasks(torch.tensor(masks, dtype=torch.float32)),
        )
        instances.pred_boxes.clip((HEIGHT, WIDTH))
        instances = instances[instances.pred_boxes.nonempty()]
        yield {"image_id": n + 1}, instances


if __name__ == "__main__":
    main()
