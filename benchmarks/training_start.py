# SPDX-License-Identifier: Apache-2.0
"""From the start of Python to the first iteration, beside detectron2's own trainer.

    python benchmarks/training_start.py [--rounds 5]

Each line is a fresh process on one thread; reported are medians of its CPU time when all is
imported, and when the first iteration begins. Ours trains the quick start; detectron2's
DefaultTrainer its semantic FPN with ResNet-50, from random weights, on the same generated images.
What detectron2 itself imports is the floor of ours. And --help of every command.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from common import save_result
from training_speed import CONFIG, GENERATED, KEYS

from longtail.commands import all_commands
from longtail.config import get_config_file

# Both print the CPU seconds so far, twice, and end before the first iteration.
CLOCK = """
class Clock(HookBase):
    def before_step(self):
        print(imported, time.process_time(), flush=True)
        os._exit(0)
"""
OURS = f"""
import os, sys, time
from detectron2.engine import HookBase
from longtail.config import load_config
from longtail.engine.run import Trainer, say_what_is_trained
imported = time.process_time()
{CLOCK}
cfg = load_config(sys.argv[1], sys.argv[2:])
trainer = Trainer(cfg)
trainer.resume_or_load(resume=False)
say_what_is_trained(cfg, trainer.model)
trainer.register_hooks([Clock()])
trainer.train()
"""
DETECTRON2 = f"""
import os, sys, time
from pathlib import Path
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase
imported = time.process_time()
{CLOCK}
folder = Path(sys.argv[1])
def records():
    for image in sorted((folder / "images" / "training").iterdir()):
        labels = folder / "annotations_detectron2" / "training" / (image.stem + ".png")
        size = {{"height": 160, "width": 160}}
        yield {{"file_name": str(image), "sem_seg_file_name": str(labels), **size}}
DatasetCatalog.register("measured", lambda: list(records()))
MetadataCatalog.get("measured").set(stuff_classes=["thing"] * 54, ignore_label=255)
cfg = model_zoo.get_config("Misc/semantic_R_50_FPN_1x.yaml")
cfg.merge_from_list(["DATASETS.TRAIN", ("measured",), "DATASETS.TEST", (), *sys.argv[2:]])
trainer = DefaultTrainer(cfg)
trainer.resume_or_load(resume=False)
trainer.register_hooks([Clock()])
trainer.train()
"""


def cpu_seconds(program: str, arguments: list[str], folder: Path) -> list[float]:
    """CPU seconds until all is imported, and until the first iteration."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(folder / "datasets"),
        "OMP_NUM_THREADS": "1",
    }
    options = ["DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "4", "MODEL.WEIGHTS", ""]
    options += ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output)]
    command = [sys.executable, "-c", program, *arguments, *options]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: a training has failed:\n{done.stderr[-2000:]}")
    return [float(seconds) for seconds in done.stdout.splitlines()[-1].split()]


def help_seconds(rounds: int) -> dict[str, float]:
    """CPU seconds of --help of each command, and of the list of all of them; medians."""
    found = {}
    for name in ["", *sorted(all_commands())]:
        seconds = []
        for _ in range(rounds):
            before = _of_children()
            command = [sys.executable, "-m", "longtail", *([name] if name else []), "--help"]
            subprocess.run(command, capture_output=True, check=True)
            seconds.append(_of_children() - before)
        found[f"longtail {name}".strip()] = round(statistics.median(seconds), 3)
    return found


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Alternate, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("output/training_start"))
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    folder = options.output.resolve()
    scenes = folder / "datasets" / "synthetic"
    if not scenes.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        generate = ["generate", "--output", str(scenes), *GENERATED]
        subprocess.run([sys.executable, "-m", "longtail", *generate], check=True)
    programs = {
        "detectron2": (DETECTRON2, [str(scenes)]),
        "ours": (OURS, [get_config_file(CONFIG), *KEYS]),
    }
    found: dict[str, list[list[float]]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, (program, arguments) in programs.items():
            found[name].append(cpu_seconds(program, arguments, folder))
            imported, started = found[name][-1]
            print(f"{name}: imported {imported:.2f} s, first iteration {started:.2f} s", flush=True)
    figures: dict[str, object] = {"rounds": options.rounds}
    for place, step in enumerate(("imported", "first iteration")):
        for name, pairs in found.items():
            figures[f"{name}, {step}, CPU s"] = statistics.median(pair[place] for pair in pairs)
        pairs = zip(found["ours"], found["detectron2"], strict=True)
        ratio = statistics.median(own[place] / peer[place] for own, peer in pairs)
        figures[f"ours / detectron2, {step}"] = ratio
    helps = help_seconds(options.rounds)
    figures["--help, CPU s"] = helps
    figures["--help, the slowest, CPU s"] = max(helps.values())
    for name, value in figures.items():
        print(f"{name}: {value}")
    if not options.no_save:
        save_result("training_start", figures)


if __name__ == "__main__":
    main()
