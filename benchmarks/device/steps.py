# SPDX-License-Identifier: Apache-2.0
"""One step of day.py: what the benchmarks that there are find, on the GPU if there is one.

python steps.py NAME [CONFIG] --output FILE [--tiny]
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from branch_cost import make_batch, now
from common import ROOT, machine
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances, ROIMasks
from PIL import Image

from longtail.utils.cores import available_cores
from longtail.utils.io import write_json

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Images and their side at which the papers' recipes train, by config; the batch is one GPU's.
SIZES = {
    "deeplabv3plus_R_50c_160k": (8, 512),
    "upernet_swin_T_160k": (8, 512),
    "upernet_beit_L_160k": (2, 640),
}
VARIANTS = ["channels_last", "bfloat16", "channels_last_bfloat16"]
TINY_MODEL, TINY_SIZE = "deeplabv3plus_R_50c_160k", (2, 64)
Save = Callable[[dict[str, Any]], None]


def tests(save: Save, tiny: bool, config: str) -> None:
    """The tests that need a GPU: how many passed, and what the others said."""
    command = [sys.executable, "-m", "pytest", "tests/cuda", "-vv", "-p", "no:cacheprovider"]
    environment = dict(os.environ)
    if tiny:
        environment["LONGTAIL_TEST_DEVICE"] = DEVICE
        command += ["-k", "losses or evaluators"]
    elif importlib.util.find_spec("xdist"):
        command += ["-n", str(min(4, available_cores())), "--dist", "load"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, env=environment)
        save(counted(report) | {"exit code": done.returncode})
    if done.returncode:
        raise SystemExit(done.returncode)


def counted(report: Path) -> dict[str, Any]:
    """The outcomes in a JUnit report, and the first lines of failures."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next(
            (case.find(k) for k in ("failure", "error") if case.find(k) is not None), None
        )
        if problem is not None:
            found["failed"] += 1
            name = f"{case.get('classname')}::{case.get('name')}"
            found["failures"][name] = (problem.get("message") or "")[:300]
        else:
            found["skipped" if case.find("skipped") is not None else "passed"] += 1
    return found


def throughput(save: Save, tiny: bool, config: str) -> None:
    """Steps of a segmentor in every way but compiled, all in turn, and the memory of each."""
    import throughput as bench

    # BEiT-L takes gigabytes and minutes on a CPU, whatever the size of the images.
    model = TINY_MODEL if tiny and "beit_L" in config else config
    images, size = TINY_SIZE if tiny else SIZES[config]
    kinds = [bench.BRANCH, *(VARIANTS[1:2] if tiny else VARIANTS)]
    figures: dict[str, Any] = {"model": model, "images": images, "size": size}
    if importlib.util.find_spec("mmseg"):
        try:
            bench.make_step(model, bench.PEER, make_batch(images, size, 150))
            kinds.insert(1, bench.PEER)
        # Whatever an old package finds new.
        except Exception as error:
            figures["mmsegmentation"] = f"left out: {error}"[:300]
    else:
        figures["mmsegmentation"] = "left out: not installed"
    steps = bench.make_steps(model, [bench.FLOAT32, *kinds], images, size)
    figures |= speeds(bench.times(steps, 1 if tiny else 10), images)
    save(figures)
    if DEVICE == "cuda":
        # On a CPU it would be that of the whole process: benchmarks/throughput.py measures it.
        memory = figures["memory beyond all models and data, MB"] = {}
        for kind, step in steps.items():
            if kind != bench.BRANCH:
                memory[kind] = bench.peak_on_gpu(step)
        save(figures)


def speeds(found: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Images per second and ratios, from the seconds of steps."""
    import throughput as bench

    medians = {kind: statistics.median(times) for kind, times in found.items()}
    plain, branch = medians[bench.FLOAT32], medians.pop(bench.BRANCH, None)
    figures: dict[str, Any] = {
        "images a second": {kind: images / value for kind, value in medians.items()},
        "times float32's throughput": {kind: plain / value for kind, value in medians.items()},
    }
    if branch is not None:
        figures["region branch, percent of a step"] = 100 * branch / plain
    if bench.PEER in medians:
        best = min(value for kind, value in medians.items() if kind != bench.PEER)
        figures["the fastest, times mmsegmentation's throughput"] = medians[bench.PEER] / best
    return figures


def compile(save: Save, tiny: bool, config: str) -> None:
    """Compiled steps of every segmentor, against those that are not."""
    import throughput as bench

    figures = {}
    for model, (images, size) in ({TINY_MODEL: TINY_SIZE} if tiny else SIZES).items():
        # On a CPU compiling takes minutes: tiny runs go as far as the step.
        kinds = [bench.FLOAT32, *([] if tiny else ["compile"])]
        found = bench.speed(model, kinds, images, size, 1 if tiny else 10)
        figures[model] = speeds(found, images)
        save(figures)


def disalign(save: Save, tiny: bool, config: str) -> None:
    """Steps of both stages of Mask R-CNN R-50: ratios, gradients and memory."""
    import disalign_stage2 as bench

    size = (256, 384) if tiny else (640, 960)
    models = {kind: bench.build(kind) for kind in bench.MODELS}
    inputs = bench.make_inputs(*size)
    for model in models.values():
        bench.plant_proposals(model.proposal_generator, inputs)
    times = bench.measure_times(models, inputs, 1 if tiny else 15)
    figures = {
        "ratios": bench.ratios(times),
        "wall seconds": {k: statistics.median(found["wall"]) for k, found in times.items()},
    }
    save(figures)
    figures["gradients, largest relative difference"] = bench.gradient_difference(
        models[bench.PLAIN], models[bench.STAGE2], inputs
    )
    save(figures)
    del models, model
    memory = figures["memory beyond model and data, MB"] = {}
    for kind in () if tiny else bench.MODELS:
        memory[kind] = bench.peak_memory(kind, *size)
        save(figures)


def evaluation(save: Save, tiny: bool, config: str) -> None:
    """The semantic and the LVIS evaluator, fed from the device, against detectron2's."""
    import sem_seg_evaluator as bench

    figures: dict[str, Any] = {}
    classes, size = (150, (512, 683)) if not tiny else (20, (64, 96))
    with tempfile.TemporaryDirectory() as folder:
        label_file = Path(folder) / "label.png"
        bench.register(label_file, classes, size)
        for name, make in (("smooth", bench.smooth_logits), ("noise", bench.noise_logits)):
            logits = make(classes, size, seed=1).to(DEVICE)
            figures[f"semantic, {name}"] = bench.measure(logits, label_file, 2 if tiny else 15)
            save(figures)
    lvis_evaluation(save, figures, *((4, 20, 30) if tiny else (200, 300, 1203)))


def lvis_evaluation(
    save: Save, figures: dict[str, Any], images: int, detections: int, categories: int
) -> None:
    """The two parts of the LVIS evaluation: what is processed of each image, and the metrics."""
    import lvis_evaluator as bench
    from detectron2.evaluation import LVISEvaluator as Detectron2Evaluator
    from generated_lvis import generate

    from longtail.data.datasets.lvis import register_lvis_instances
    from longtail.evaluation.lvis.evaluator import LVISEvaluator

    with tempfile.TemporaryDirectory() as folder:
        generate(folder, images, detections, categories)
        name = "device_lvis"
        register_lvis_instances(name, Path(folder) / "annotations.json", folder)
        outputs = list(instances_of(bench.Stored(folder)))[: 3 if images < 10 else 40]
        ours, theirs = LVISEvaluator(name), Detectron2Evaluator(name, output_dir=folder)
        found: dict[str, list[float]] = {"ours": [], "detectron2": []}
        for evaluator in (ours, theirs):
            evaluator.reset()
        for number, instances in enumerate(outputs):
            for key, evaluator in (("ours", ours), ("detectron2", theirs)):
                start = now()
                evaluator.process([{"image_id": number + 1}], [{"instances": instances}])
                found[key].append(1e3 * (now() - start))
        medians = {key: statistics.median(times) for key, times in found.items()}
        figures["LVIS, processing an image"] = {
            **{f"{key} (ms)": value for key, value in medians.items()},
            "times faster": medians["detectron2"] / medians["ours"],
        }
        save(figures)
        figures["LVIS, metrics, ours (s)"] = bench.measure_ours(folder)["s"]
        figures["LVIS, metrics, lvis-api (s)"] = bench.measure_lvis_api(folder)["s"]
        save(figures)


def instances_of(stored: Any) -> Iterator[Instances]:
    """The stored detections as a detector gives them, with pasted random masks, on the device."""
    from generated_lvis import HEIGHT, WIDTH

    for category, score, box in zip(stored.category, stored.score, stored.box, strict=True):
        instances = Instances((HEIGHT, WIDTH))
        corners = torch.as_tensor(np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1))
        instances.pred_boxes = Boxes(corners.float().to(DEVICE))
        instances.pred_boxes.clip((HEIGHT, WIDTH))
        instances.scores = torch.as_tensor(np.asarray(score)).to(DEVICE)
        instances.pred_classes = torch.as_tensor(np.asarray(category)).long().to(DEVICE)
        generator = torch.Generator().manual_seed(0)
        small = torch.rand(len(box), 28, 28, generator=generator).to(DEVICE)
        masks = ROIMasks(small).to_bitmasks(instances.pred_boxes, HEIGHT, WIDTH)
        instances.pred_masks = masks.tensor
        yield instances


def loader(save: Save, tiny: bool, config: str) -> None:
    """Images a second that the training loader of the papers' recipe gives, by its processes."""
    from longtail.config import load_config
    from longtail.data.datasets import register_sem_seg
    from longtail.engine import Trainer

    figures: dict[str, Any] = {"cores": available_cores()}
    number, batches, size = (4, 2, (96, 64)) if tiny else (64, 40, (683, 512))
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), number, size)
        names = [f"class {index}" for index in range(150)]
        images, labels = Path(folder) / "images", Path(folder) / "labels"
        register_sem_seg("device_sem_seg", images, labels, names)
        DatasetCatalog.get("device_sem_seg")
        for workers in (1,) if tiny else (available_cores(), available_cores() // 2, 1):
            options = ["DATASETS.TRAIN", ("device_sem_seg",), "DATALOADER.NUM_WORKERS", workers]
            options += ["SOLVER.IMS_PER_BATCH", 2 if tiny else 8, "SEED", 0]
            cfg = load_config(str(ROOT / "configs/ADE20K" / f"{TINY_MODEL}.yaml"), options)
            read = iter(Trainer.build_train_loader(cfg))
            # What was read ahead is none of the time.
            for _ in range(1 + 2 * workers):
                next(read)
            count = max(2, batches // (1 if workers > 1 else 8))
            start = time.perf_counter()
            for _ in range(count):
                next(read)
            rate = count * cfg.SOLVER.IMS_PER_BATCH / (time.perf_counter() - start)
            figures[f"images a second, {workers} workers"] = rate
            save(figures)
            del read


def write_images(folder: Path, number: int, size: tuple[int, int]) -> None:
    """JPEGs of smooth noise with labels of 16 classes each; ``size`` is width and height."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index, item in enumerate(make_batch(number, max(size), 150)):
        noise = generator.integers(0, 256, (size[1] // 8, size[0] // 8, 3)).astype(np.uint8)
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{index}.jpg", quality=92)
        labels = item["sem_seg"][: size[1], : size[0]].numpy().astype(np.uint8)
        Image.fromarray(labels).save(folder / "labels" / f"{index}.png")


STEPS = {step.__name__: step for step in (tests, throughput, disalign, evaluation, loader, compile)}


def main() -> None:
    """Measure one step, saving whatever there is so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("config", nargs="?", default="", help="of throughput, in configs/ADE20K")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    print(f"== {options.name} {options.config}: {machine()}", flush=True)
    STEPS[options.name](
        lambda figures: write_json(options.output, figures), options.tiny, options.config
    )


if __name__ == "__main__":
    main()
