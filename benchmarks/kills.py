# SPDX-License-Identifier: Apache-2.0
"""Kill trainings at random moments, resume them, compare the end with an unbroken run, bit for bit.

    python benchmarks/kills.py [--kills 50] [--variants ...]

Every variant is trained once without interruption. Then it is trained again and again from the
start, killed with SIGKILL at random moments and continued with --resume until it ends, and weights,
optimizer, and metrics.json (but for times) are compared. Models and data are tiny, what runs is
``longtail train``.
"""

import argparse
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import save_result
from run_differences import differences

from longtail.config import get_config_file

SCENES = ["--num-train", "40", "--num-val", "10", "--size", "64", "--workers", "1"]
GENERATED = {
    "scenes": [*SCENES, "--classes", "8", "--region-imbalance", "4", "--pixel-imbalance", "8"],
    "lvis": ["--lvis", *SCENES, "--classes", "14", "--region-imbalance", "8"],
    "images": ["--classification", "--classes", "6", "--images", "30", "--imbalance", "10"],
}
SHORT = ["SOLVER.MAX_ITER", "41", "SOLVER.CHECKPOINT_PERIOD", "7", "TEST.EVAL_PERIOD", "20"]
COMMON = [*SHORT, "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "SEED", "1"]
PIXELS = [
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "8"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "64", "INPUT.CROP.SIZE", "[48,48]"),
    *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64", "TEST.EXPECTED_RESULTS", "[]"),
    *("SOLVER.IMS_PER_BATCH", "4"),
]
BOXES = [
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.ROI_HEADS.NUM_CLASSES", "11"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "64"),
    *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "4"),
]
IMAGES = [
    *("MODEL.TIMM.NAME", "test_resnet", "MODEL.CLASSIFIER.NUM_CLASSES", "6"),
    *("SOLVER.IMS_PER_BATCH", "8"),
]
SCENE_RR = "quickstart/deeplabv3plus_lite0_rr.yaml"
DETECTOR = "LVIS-Synthetic/mask_rcnn_lite0_FPN.yaml"
NO_WORKER, TWO_WORKERS = ["DATALOADER.NUM_WORKERS", "0"], ["DATALOADER.NUM_WORKERS", "2"]
HALF = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE"]
# Name of a variant: config, overrides; a second stage starts from the variant that it names.
VARIANTS: dict[str, dict[str, Any]] = {
    "segmentation with RR": {"config": SCENE_RR, "keys": [*PIXELS, *NO_WORKER]},
    "segmentation with RR, 2 workers, accumulation": {
        "config": SCENE_RR,
        "keys": [*PIXELS, *TWO_WORKERS, "SOLVER.ACCUMULATION_STEPS", "2"],
    },
    "segmentation with RR, bfloat16": {
        "config": SCENE_RR,
        "keys": [*PIXELS, *NO_WORKER, *HALF, "bfloat16"],
    },
    "Mask R-CNN": {"config": DETECTOR, "keys": [*BOXES, *NO_WORKER]},
    "Mask R-CNN, repeat factors, 2 workers": {
        "config": DETECTOR,
        "keys": [
            *(*BOXES, *TWO_WORKERS, "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
            *("DATALOADER.REPEAT_THRESHOLD", "0.5"),
        ],
    },
    "DisAlign, images": {
        "config": "LVIS-Synthetic/mask_rcnn_lite0_FPN_disalign.yaml",
        "keys": [*BOXES, *NO_WORKER],
        "first": "Mask R-CNN",
    },
    "DisAlign, cached features": {
        "config": "LVIS-Synthetic/mask_rcnn_lite0_FPN_disalign.yaml",
        "keys": [*BOXES, *NO_WORKER],
        "first": "Mask R-CNN",
        "cache": True,
    },
    "classification, class-balanced, 2 workers": {
        "config": "synthetic-LT/linear.yaml",
        "keys": [
            *(*IMAGES, *TWO_WORKERS, "DATALOADER.SAMPLER_TRAIN", "ClassBalancedTrainingSampler"),
        ],
    },
    "classification, Seesaw, float16": {
        "config": "synthetic-LT/linear.yaml",
        "keys": [*IMAGES, *NO_WORKER, *HALF, "float16", "MODEL.CLASSIFIER.LOSS", "seesaw"],
    },
    "classification, random subset": {
        "config": "synthetic-LT/linear.yaml",
        "keys": [
            *(*IMAGES, *NO_WORKER, "DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"),
            *("DATALOADER.RANDOM_SUBSET_RATIO", "0.7"),
        ],
    },
}


def longtail(*arguments: str, environment: dict[str, str], log: Path) -> subprocess.Popen:
    """Start a command."""
    command = [sys.executable, "-m", "longtail", *arguments]
    with open(log, "ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


class Bench:
    """Trainings of the variants in one folder."""

    def __init__(self, folder: Path) -> None:
        """Generate the data sets in the folder, where they are not there yet."""
        self.folder = folder
        datasets = folder / "datasets"
        self.environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(datasets),
            "OMP_NUM_THREADS": "1",
        }
        self.log = folder / "log.txt"
        names = {"scenes": "synthetic", "lvis": "lvis_synthetic", "images": "synthetic_lt"}
        for kind, options in GENERATED.items():
            target = datasets / names[kind]
            if not target.is_dir():
                self.finish("generate", "--output", str(target), *options)

    def finish(self, *arguments: str) -> None:
        """Run a command to its end."""
        process = longtail(*arguments, environment=self.environment, log=self.log)
        if process.wait():
            raise SystemExit(f"error: longtail {arguments[0]} has failed: see {self.log}")

    def command(self, name: str, output: Path, *, resume: bool) -> list[str]:
        """The training of a variant."""
        variant = VARIANTS[name]
        keys = [*COMMON, *variant["keys"], "OUTPUT_DIR", str(output)]
        if "first" in variant:
            weights = self.reference(variant["first"]) / "model_final.pth"
            keys += ["MODEL.WEIGHTS", str(weights)]
        if "cache" in variant:
            cache = self.folder / "roi_cache"
            if not (cache / "cache.json").is_file():
                arguments = ["--config-file", variant["config"], "--output", str(cache)]
                self.finish("cache-roi-features", *arguments, "--epochs", "2", *keys)
            keys += ["MODEL.DISALIGN.ROI_FEATURE_CACHE", str(cache)]
        config = get_config_file(variant["config"])
        return ["train", "--config-file", config, *(["--resume"] * resume), *keys]

    def reference(self, name: str) -> Path:
        """The folder of the unbroken run."""
        output = self.folder / "unbroken" / _slug(name)
        if not (output / "done").is_file():
            shutil.rmtree(output, ignore_errors=True)
            start = time.monotonic()
            self.finish(*self.command(name, output, resume=False))
            (output / "done").write_text(f"{time.monotonic() - start}")
        return output

    def broken(self, name: str, rng: random.Random, kills: int) -> tuple[Path, int]:
        """Train with so many kills at most; returns the folder and how many were made."""
        output = self.folder / "broken" / _slug(name)
        shutil.rmtree(output, ignore_errors=True)
        seconds = float((self.reference(name) / "done").read_text())
        made = 0
        while True:
            start = time.monotonic()
            command = self.command(name, output, resume=output.is_dir())
            process = longtail(*command, environment=self.environment, log=self.log)
            if made == kills:
                if process.wait():
                    raise SystemExit(
                        f"error: {name}: a resumed training has failed: see {self.log}"
                    )
                return output, made
            # Later than the start of Python, and before the end of the unbroken run.
            try:
                code = process.wait(rng.uniform(0.3, 0.98) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                made += 1
                continue
            if code:
                raise SystemExit(f"error: {name}: a resumed training has failed: see {self.log}")
            if made == 0:
                # The machine is faster now than it was at the unbroken run.
                seconds = min(seconds, time.monotonic() - start)
                (self.reference(name) / "done").write_text(f"{seconds}")
            return output, made


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def main() -> None:
    """Kill, resume, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="over all variants, at least")
    parser.add_argument("--per-run", type=int, default=3, help="most kills of one training")
    parser.add_argument("--output", type=Path, default=Path("output/kills"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--no-save", action="store_true", help="do not write the result")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.output.resolve())
    rng = random.Random(options.seed)
    quota = math.ceil(options.kills / len(options.variants))
    figures: dict[str, dict[str, Any]] = {}
    for name in options.variants:
        unbroken = bench.reference(name)
        row = figures[name] = {"kills": 0, "runs": 0, "runs that differ": 0, "first difference": ""}
        while row["kills"] < quota:
            folder, kills = bench.broken(name, rng, min(options.per_run, quota - row["kills"]))
            found = differences(unbroken, folder)
            row["kills"] += kills
            row["runs"] += 1
            row["runs that differ"] += bool(found)
            row["first difference"] = row["first difference"] or (found[0] if found else "")
            print(
                f"{name}: {row['kills']} kills in {row['runs']} runs, "
                f"{row['runs that differ']} differ {found[:3]}",
                flush=True,
            )
    total = {
        key: sum(row[key] for row in figures.values())
        for key in ("kills", "runs", "runs that differ")
    }
    print(total)
    if not options.no_save:
        save_result("kills", {"total": total, "variants": figures})


if __name__ == "__main__":
    main()
