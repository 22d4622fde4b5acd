# SPDX-License-Identifier: Apache-2.0
"""The small good data, models and caches that benchmarks/bad_inputs.py makes bad ones from."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kills import BOXES, DETECTOR, GENERATED, IMAGES, PIXELS, SCENE_RR

from longtail.config import get_config_file

NAMES = {"scenes": "synthetic", "lvis": "lvis_synthetic", "images": "synthetic_lt"}
SECOND = "LVIS-Synthetic/mask_rcnn_lite0_FPN_disalign.yaml"
CONFIGS = {
    "pixels": SCENE_RR,
    "boxes": DETECTOR,
    "images": "synthetic-LT/linear.yaml",
    "second": SECOND,
}
DETECTION = [*BOXES, "MODEL.ROI_HEADS.NUM_CLASSES", "11"]
KEYS = {"pixels": PIXELS, "boxes": DETECTION, "images": IMAGES, "second": DETECTION}
SHORT = [
    *("SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "0"),
    *("MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "SEED", "1"),
    *("DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu", "TEST.EXPECTED_RESULTS", "[]"),
]


Change = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: unique.
        expect: what the line has to name.
        make: prepares the files, and gives the command line, without ``longtail``.
        program: run it as a program of its own, not in a fork.
        crafted: the input would run code if it could.
    """

    name: str
    expect: tuple[str, ...]
    make: Callable[["Place"], list[str]]
    program: bool = False
    crafted: bool = False


class Place:
    """The folder of a case, and ways to make bad files in it."""

    def __init__(self, stage: "Stage", folder: Path) -> None:
        """Start with an empty folder and the good data sets."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.stage, self.folder = stage, folder
        self.datasets = stage.datasets
        # A crafted file that is executed leaves it.
        self.marker = folder / "executed"

    @property
    def output(self) -> Path:
        """OUTPUT_DIR of the case."""
        return self.folder / "output"

    def data(self, kind: str) -> Path:
        """The case's own copy of a data set."""
        name = NAMES[kind]
        if self.datasets == self.stage.datasets:
            self.datasets = self.folder / "datasets"
        target = self.datasets / name
        if not target.exists():
            shutil.copytree(self.stage.datasets / name, target)
        return target

    def write(self, name: str, content: str | bytes) -> str:
        """Write a file; returns its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def keys(self, kind: str, *keys: str) -> list[str]:
        """The config and the overrides of a tiny training."""
        config = ["--config-file", get_config_file(CONFIGS[kind])]
        return [*config, *SHORT, *KEYS[kind], *keys]

    def train(self, kind: str, *keys: str, options: Sequence[str] = ()) -> list[str]:
        """A tiny training."""
        config, *rest = [self.keys(kind)[:2], self.keys(kind, *keys)[2:]]
        return ["train", *config, *options, *rest[0], "OUTPUT_DIR", str(self.output)]

    def resume(self, kind: str) -> Path:
        """A copy of a finished training as the case's OUTPUT_DIR."""
        if not self.output.exists():
            shutil.copytree(self.stage.model(kind).parent, self.output)
        return self.output

    def cache(self) -> Path:
        """The case's own copy of the cache of RoI features."""
        target = self.folder / "roi_cache"
        if not target.exists():
            shutil.copytree(self.stage.cache(), target)
        return target

    def second(self, *keys: str) -> list[str]:
        """A second stage on cached features."""
        first = ["MODEL.WEIGHTS", str(self.stage.model("boxes"))]
        cached = ["MODEL.DISALIGN.ROI_FEATURE_CACHE", str(self.folder / "roi_cache")]
        return self.train("second", *first, *cached, *keys)


class Stage:
    """Good data sets, trained models and a cache, made once."""

    def __init__(self, folder: Path) -> None:
        """Generate the data sets, where they are not there yet."""
        self.folder, self.datasets = folder, folder / "datasets"
        self.environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(self.datasets),
            "LONGTAIL_CACHE": str(folder / "statistics"),
            "OMP_NUM_THREADS": "1",
        }
        for kind, options in GENERATED.items():
            target = self.datasets / NAMES[kind]
            if not (target / "meta.json").is_file():
                shutil.rmtree(target, ignore_errors=True)
                self._finish("generate", "--output", str(target), *options)

    def model(self, kind: str) -> Path:
        """The final weights of a tiny training of two iterations."""
        path = self.folder / "models" / kind / "model_final.pth"
        if not path.is_file():
            shutil.rmtree(path.parent, ignore_errors=True)
            config = get_config_file(CONFIGS[kind])
            options = ["--config-file", config, *SHORT, *KEYS[kind], "DATASETS.TEST", "()"]
            if kind == "second":
                options += ["MODEL.WEIGHTS", str(self.model("boxes"))]
            self._finish("train", *options, "OUTPUT_DIR", str(path.parent))
        return path

    def cache(self) -> Path:
        """A complete cache of RoI features."""
        path = self.folder / "roi_cache"
        if not (path / "shard_000000.pt").is_file():
            shutil.rmtree(path, ignore_errors=True)
            options = ["--config-file", get_config_file(SECOND), "--output", str(path)]
            weights = ["MODEL.WEIGHTS", str(self.model("boxes"))]
            self._finish("cache-roi-features", *options, *SHORT, *DETECTION, *weights)
        return path

    def _finish(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "longtail", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: longtail {arguments[0]}: {done.stderr[-2000:]}")
