# SPDX-License-Identifier: Apache-2.0
"""Time and memory of our LVIS evaluation against a peer's, on generated detections.

Each side runs in a process of its own, boxes and masks, on the same annotation file and the same
detections with the masks already encoded:

- lvis-api: detectron2's way, a list of dicts of all detections. Timed: `LVIS`, then for boxes and
  for masks `LVISResults` and `LVISEval.run` (its evaluate, accumulate and summarize). The lists
  themselves are made outside of the time.
- faster-coco-eval, with --peer (pip install --no-deps faster-coco-eval==1.8.0): the same of `COCO`,
  `loadRes` and `COCOeval_faster` in the style of LVIS; its AP, AP50 and AP75.
- ours: timed are `read_lvis_annotations`, for each image what `LVISEvaluator.process` does with
  its arrays (sorting, the federated rules, the polygons' conversion, the matching), and the
  figures of all of them. The arrays of an image are taken from the file outside of the time, and
  released after it, as the evaluator does.

Memory is the peak of the process less what it held before: with the libraries and the generated
detections as arrays in memory (on both sides), but without annotations, lists or results. It is
read from Linux's /proc: `ru_maxrss` would begin with the parent's peak.
"""

import argparse
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import in_child, memory, save_result, start_memory
from generated_lvis import Stored, generate


def main() -> None:
    """Generate, measure, compare, write ``results/lvis_evaluator.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--detections", type=int, default=300, help="an image")
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--ours-only", action="store_true", help="do not run the peer")
    parser.add_argument("--peer", choices=PEERS, default="lvis-api")
    parser.add_argument("--name", default="lvis_evaluator", help="of the file with the results")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        sizes = in_child(generate, folder, args.images, args.detections, args.categories)
        figures: dict[str, Any] = {
            "images": args.images,
            "detections an image": args.detections,
            "categories": args.categories,
            **sizes,
            "ours": in_child(measure_ours, folder),
        }
        report("ours", figures["ours"])
        if not args.ours_only:
            figures[args.peer] = in_child(PEERS[args.peer], folder)
            report(args.peer, figures[args.peer])
            compare(figures, args.peer)
    save_result(args.name, figures)


class Clock:
    """Wall and processor seconds by name; both sides run in one thread."""

    def __init__(self) -> None:
        """Start with no names."""
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block to ``name``."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = self.wall.get(name, 0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0) + time.process_time() - cpu

    def figures(self) -> dict[str, float]:
        """The sums, then the wall seconds of each name."""
        parts = {f"{name} (s)": seconds for name, seconds in self.wall.items()}
        return {"s": sum(self.wall.values()), "CPU s": sum(self.cpu.values()), **parts}


def measure_ours(folder: str) -> dict[str, Any]:
    """Seconds, MB and figures of our evaluation."""
    from longtail.evaluation.lvis.annotations import read_lvis_annotations
    from longtail.evaluation.lvis.detections import match_detections, select_detections
    from longtail.evaluation.lvis.matches import join_matches
    from longtail.evaluation.lvis.precision import compute_metrics

    stored, clock, matches = Stored(folder), Clock(), []
    before = start_memory()
    with clock.time("reading"):
        annotations = read_lvis_annotations(Path(folder) / "annotations.json")
    for n in range(len(stored.category)):
        rles = stored.masks(n)
        with clock.time("matching"):
            found = select_detections(
                annotations, n, stored.category[n], stored.score[n], stored.box[n], 300
            )
            masks = {place: rles[k] for place, k in enumerate(found.order)}
            matches.append(match_detections(annotations, found, masks, unlimited=False))
    tasks = ("bbox", "segm")
    with clock.time("figures"):
        kept = join_matches(matches, tasks)
        figures, _ = compute_metrics(kept, annotations, tasks, ("standard",))
    return {
        **clock.figures(),
        "MB": memory("VmHWM") - before,
        "MB with libraries and detections": memory("VmHWM"),
        "detections that can count": len(kept),
        "AP": {task: {k: v / 100 for k, v in figures[task].items()} for task in tasks},
    }


def import_lvis_api() -> ModuleType:
    """Import the lvis package, whose name is also that of lvis.py beside this script."""
    place = importlib.metadata.distribution("lvis").locate_file("")
    spec = importlib.machinery.PathFinder.find_spec("lvis", [str(place)])
    module = sys.modules["lvis"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure_lvis_api(folder: str) -> dict[str, Any]:
    """Seconds, MB and figures of the lvis package."""
    setattr(np, "float", float)  # noqa: B010 (the package still uses what numpy dropped)
    lvis = import_lvis_api()
    stored, clock, figures = Stored(folder), Clock(), {}
    before = start_memory()
    with clock.time("reading"):
        truth = lvis.LVIS(str(Path(folder) / "annotations.json"))
    for task in ("bbox", "segm"):
        listed = as_dicts(stored, task)
        with clock.time(task):
            evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, listed), task)
            del listed
            evaluation.run()
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
        figures[task] = {name: float(evaluation.get_results()[name]) for name in names}
        del evaluation
    return {
        **clock.figures(),
        "MB": memory("VmHWM") - before,
        "MB with libraries and detections": memory("VmHWM"),
        "AP": figures,
    }


def measure_faster_coco_eval(folder: str) -> dict[str, Any]:
    """Seconds, MB and figures of the package faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    stored, clock, figures = Stored(folder), Clock(), {}
    before = start_memory()
    with clock.time("reading"):
        truth = COCO(str(Path(folder) / "annotations.json"))
    for task in ("bbox", "segm"):
        listed = as_dicts(stored, task)
        with clock.time(task):
            results = truth.loadRes(listed)
            del listed
            evaluation = COCOeval_faster(
                truth, results, task, lvis_style=True, print_function=lambda *_: None
            )
            evaluation.params.maxDets = [300]
            evaluation.run()
        names = {"AP": "AP_all", "AP50": "AP_50", "AP75": "AP_75"}
        found = evaluation.stats_as_dict
        figures[task] = {name: float(found[theirs]) for name, theirs in names.items()}
        del evaluation, results
    return {
        **clock.figures(),
        "MB": memory("VmHWM") - before,
        "MB with libraries and detections": memory("VmHWM"),
        "AP": figures,
    }


PEERS = {"lvis-api": measure_lvis_api, "faster-coco-eval": measure_faster_coco_eval}


def as_dicts(stored: Stored, task: str) -> list[dict[str, Any]]:
    """LVIS's results; as detectron2 does, boxes or masks."""
    listed = []
    for image in range(len(stored.category)):
        boxes, scores = stored.box[image].tolist(), stored.score[image].tolist()
        masks = stored.masks(image) if task == "segm" else [None] * len(boxes)
        for category, score, box, mask in zip(
            stored.category[image].tolist(), scores, boxes, masks, strict=True
        ):
            row = {"image_id": image + 1, "category_id": category + 1, "score": score}
            listed.append({**row, **({"segmentation": mask} if mask else {"bbox": box})})
    return listed


def compare(figures: dict[str, Any], peer: str) -> None:
    """Add the ratios and the largest difference to the figures.

    Raises:
        RuntimeError: a figure differs by more than 1e-12.
    """
    ours, theirs = figures["ours"], figures[peer]
    figures["times faster"] = theirs["s"] / ours["s"]
    figures["times less CPU"] = theirs["CPU s"] / ours["CPU s"]
    figures["share of the memory"] = ours["MB"] / theirs["MB"]
    differences = [
        abs(np.nan_to_num(ours["AP"][task][name], nan=-1) - value)
        for task, values in theirs["AP"].items()
        for name, value in values.items()
    ]
    figures["largest difference of a figure"] = float(max(differences))
    print(f"times faster {figures['times faster']:.1f}")
    print(f"times less CPU {figures['times less CPU']:.1f}")
    print(f"share of the memory {figures['share of the memory']:.3f}")
    print(f"largest difference {max(differences):.1e}")
    if max(differences) > 1e-12:
        raise RuntimeError(f"the figures differ from {peer}'s")


def report(name: str, figures: dict[str, Any]) -> None:
    """Print the figures of one side."""
    print(f"\n{name}")
    for key, value in figures.items():
        if key != "AP":
            print(f"  {key:32s} {value:10.2f}")
    for task, values in figures["AP"].items():
        print(f"  {task}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))


if __name__ == "__main__":
    main()
