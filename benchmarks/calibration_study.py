# SPDX-License-Identifier: Apache-2.0
"""Study the second stage of a detector: what its calibration learns, from what, and what it could.

    python benchmarks/calibration_study.py recipes --weights FIT_RUN/model_final.pth --work STUDY
    python benchmarks/calibration_study.py ceilings --weights RUN/model_final.pth --work STUDY2

The frozen part of a detector is computed once; then calibrations are fitted in seconds.

``recipes``: the detector was trained on one part of IoTKITs-LT's training images, and calibrations
are compared on the other part, which it has not seen. One thing changes at a time: the optimizer,
the number of iterations, the confidence, the start, the rate of each term, rho, and the images that
the calibration learns from: those of the first stage, augmented as there; the same as they are; or
held-out ones, of which one half is fitted and the other evaluated, and the other way round
(two-fold cross-fitting). The data set's own test images, val, are not read.

``ceilings``: what could be reached at most. The detector was trained on all training images; for
each metric coordinate ascent looks for the scale and the shift of every class that are the best on
the evaluated images themselves, of val. The detector's own metrics stand in the first row.
"""

import argparse
import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from calibration_recipes import RECIPES, Recipe, build_optimizer
from common import save_result
from disalign.calibration import AdaptiveCalibration
from disalign.functional import alignment_loss, generalized_reweight
from frozen_detector import FrozenDetector, FrozenImage, FrozenRoIs, evaluate
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from longtail.config import load_config
from longtail.data.statistics.class_stats import get_class_stats
from longtail.modeling.post_hoc import logit_adjustment
from longtail.utils.errors import ending_in_one_line

CONFIG = "IoTKITs-LT/mask_rcnn_lite0_FPN_disalign.yaml"
FIT, HELD_OUT = "iotkits_lt_fit", "iotkits_lt_held_out"
TRAIN, VAL = "iotkits_lt_train", "iotkits_lt_val"
BATCH = 4
EPOCHS = 4
METRICS = ("AP", "AP@10", "AP@1", "AP_fixed", "AP_pool", "F1", "recall", "surest acc")
SHOWN = ("AP", "APr", "APc", "APf", "AP@1", "AP@1 r", "AP_pool", "F1", "F1 r", "surest acc")
SHOWN += ("surest acc r",)
# Of the coordinate ascent: shifts are added, scales multiplied.
SHIFTS, SCALES = (-1.0, -0.3, 0.3, 1.0), (0.8, 1.25)


@dataclass
class Study:
    """What the fits have in common: the detector's outputs and the class counts."""

    detector: FrozenDetector
    evaluated: str
    seed: int
    images: list[FrozenImage] = field(init=False)
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Compute what is frozen of the evaluated images, or read it."""
        stats = get_class_stats(self.detector.cfg.DATASETS.TRAIN)
        self.counts = torch.from_numpy(stats.instance_count)
        self.images = self.detector.images(self.evaluated)

    @property
    def margins(self) -> Tensor:
        """(K,) shifts of logit adjustment, centered as in detectors."""
        return logit_adjustment(torch.zeros(len(self.counts)), self.counts, 1.0, centered=True)

    @functools.cached_property
    def sources(self) -> dict[str, list[FrozenRoIs]]:
        """What calibrations learn from."""
        return {
            "augmented": [r for e in range(EPOCHS) for r in self.detector.rois(FIT, e)],
            "plain": self.detector.rois(FIT, None),
            "held-out": self.detector.rois(HELD_OUT, None),
        }

    def fit(self, recipe: Recipe, rois: Sequence[FrozenRoIs]) -> AdaptiveCalibration:
        """Learn a calibration from the RoIs of some images."""
        torch.manual_seed(self.seed)
        draw = random.Random(self.seed)
        weights = generalized_reweight(self.counts, recipe.rho).float()
        calibration = AdaptiveCalibration(
            len(weights), rois[0].features.shape[1], confidence=recipe.confidence
        )
        if recipe.prior:
            calibration.beta.data.copy_(weights.log())
        optimizer = build_optimizer(recipe, calibration)
        for iteration in range(recipe.iterations):
            step = 0.1 if iteration >= 0.89 * recipe.iterations else 1.0
            for group in optimizer.param_groups:
                group["lr"] = group["initial"] * step * min(1.0, (iteration + 1) / 20)
            batch = [draw.choice(rois) for _ in range(BATCH)]
            logits = torch.cat([item.logits for item in batch])
            features = torch.cat([item.features for item in batch]).float()
            scores = torch.cat([calibration(logits[:, :-1], features), logits[:, -1:]], dim=1)
            classes = torch.cat([item.classes for item in batch])
            loss = alignment_loss(scores, classes, torch.cat([weights, torch.ones(1)]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return calibration.eval()

    def run(self, recipe: Recipe) -> dict:
        """Fit and evaluate: the metrics, and the mean of each term by frequency group."""
        halves = [self.images] if recipe.source != "held-out" else _halves(self.images)
        fitted, of_image = [], {}
        for half in halves:
            rois = self.sources[recipe.source]
            if recipe.source == "held-out":
                evaluated = {image.image_id for image in half}
                pairs = zip(self.images, rois, strict=True)
                rois = [r for image, r in pairs if image.image_id not in evaluated]
            fitted.append(self.fit(recipe, rois))
            of_image |= {image.image_id: fitted[-1] for image in half}
        return {"metrics": self.evaluate(of_image), "terms": [self._terms(c) for c in fitted]}

    @torch.no_grad()
    def evaluate(self, of_image: dict[int, Callable] | Callable) -> dict[str, float]:
        """Evaluate a calibration, or one for each image."""
        if not isinstance(of_image, dict):
            of_image = {image.image_id: of_image for image in self.images}
        return evaluate(self.detector.cfg, self.evaluated, self.images, of_image)

    @torch.no_grad()
    def _terms(self, calibration: AdaptiveCalibration) -> dict[str, list[float]]:
        rois = self.sources["held-out"]
        features = torch.cat([item.features for item in rois]).float()
        classes = torch.cat([item.classes for item in rois])
        sigma = calibration.confidence(features)[:, 0]
        return {
            "alpha": calibration.alpha.tolist(),
            "beta": calibration.beta.tolist(),
            "sigma of objects": sigma[classes < len(self.counts)].quantile(QUANTILES).tolist(),
            "sigma of background": sigma[classes == len(self.counts)].quantile(QUANTILES).tolist(),
        }


QUANTILES = torch.tensor([0.1, 0.5, 0.9])


def _halves(images: Sequence[FrozenImage]) -> list[list[FrozenImage]]:
    order = random.Random(0).sample(list(images), len(images))
    return [order[0::2], order[1::2]]


def oracle(study: Study, metric: str, start: tuple[Tensor, Tensor]) -> dict:
    """Raise a metric on the evaluated images themselves, one class at a time.

    Args:
        study: the detector.
        metric: the name.
        start: (K,) scale and (K,) shift.

    Returns:
        The metrics at the end, and how often a class was tried.
    """
    scale, shift = (term.clone() for term in start)
    best = study.evaluate(lambda z, _: z * scale + shift)
    moves = [(shift, "add", step) for step in SHIFTS] + [(scale, "mul", step) for step in SCALES]
    tried = 0
    for k in tqdm(range(len(scale)), metric, mininterval=10):
        for term, operation, step in moves:
            before = term[k].clone()
            term[k] = before + step if operation == "add" else before * step
            found = study.evaluate(lambda z, _: z * scale + shift)
            tried += 1
            if found[metric] > best[metric] + 1e-9:
                best = found
            else:
                term[k] = before
    return {"metrics": best, "tried": tried, "scale": scale.tolist(), "shift": shift.tolist()}


def table(rows: dict[str, dict], columns: Iterable[str]) -> str:
    """The metrics of rows."""
    return tabulate(
        [[name, *(row["metrics"][c] for c in columns)] for name, row in rows.items()],
        headers=["", *columns],
        floatfmt=".1f",
    )


def compare_recipes(study: Study) -> dict[str, dict]:
    """The first stage, logit adjustment, and every recipe; prints each as soon as it is there."""
    rows = {
        "first stage": {"metrics": study.evaluate(lambda z, _: z)},
        "logit adjustment": {"metrics": study.evaluate(lambda z, _: z + study.margins)},
    }
    for name, recipe in RECIPES.items():
        rows[name] = {"recipe": asdict(recipe), **study.run(recipe)}
        print(f"{name}: AP {rows[name]['metrics']['AP']:.1f}", flush=True)
    print(table(rows, SHOWN))
    return rows


def find_ceilings(study: Study) -> dict[str, dict]:
    """The first stage, logit adjustment, and for each metric the best calibration."""
    starts = {
        "first stage": (torch.ones_like(study.margins), torch.zeros_like(study.margins)),
        "logit adjustment": (torch.ones_like(study.margins), study.margins),
    }
    rows = {
        name: {"metrics": study.evaluate(lambda z, _, s=start: z * s[0] + s[1])}
        for name, start in starts.items()
    }
    for metric in METRICS:
        best = max(starts, key=lambda name, m=metric: rows[name]["metrics"][m])
        rows[f"best {metric}"] = oracle(study, metric, starts[best])
    print(table(rows, METRICS))
    return rows


PARTS = {
    "recipes": (compare_recipes, FIT, HELD_OUT),
    "ceilings": (find_ceilings, TRAIN, VAL),
}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--weights", required=True, help="the first stage's checkpoint")
    parser.add_argument("--work", required=True, type=Path, help="folder for what is computed")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Do one part, print and write it."""
    arguments = parse_arguments()
    work, trained, evaluated = PARTS[arguments.part]
    with ending_in_one_line():
        overrides = ["MODEL.WEIGHTS", arguments.weights, "DATASETS.TRAIN", f"('{trained}',)"]
        cfg = load_config(CONFIG, [*overrides, "MODEL.CHANNELS_LAST", "False"])
        study = Study(FrozenDetector(cfg, arguments.work), evaluated, arguments.seed)
        save_result(f"calibration_{arguments.part}", work(study))


if __name__ == "__main__":
    main()
