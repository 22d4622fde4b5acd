# SPDX-License-Identifier: Apache-2.0
"""Compare post hoc calibrations of a detector, fitted to images that it was not trained on.

    python benchmarks/calibration_posthoc.py --weights seed0.pth seed1.pth seed2.pth --work FOLDER

The detectors are of IoTKITs-LT/mask_rcnn_lite0_FPN.yaml, trained on all training images. What needs
fitting is fitted by two-fold cross-fitting on val: to half of the images, and measured on the other
half, and the other way round; nothing is chosen by what is reported. Every row is the mean of the
two halves, each evaluated by itself: one ranking of both would compare scores of two fits. LogN
takes its moments from the RoIs of the other half as well. Logit adjustment and NorCal need the
training counts alone, with the strengths that are named. All see the same frozen outputs.

ECE, classwise ECE and the Brier score are of the best 300 detections an image, at IoU 0.5.
"""

import argparse
import contextlib
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from calibration_recipes import LONG
from calibration_study import CONFIG, TRAIN, VAL, Study, _halves
from common import save_result
from detectron2.data import DatasetCatalog, MetadataCatalog
from frozen_detector import FrozenDetector, FrozenImage, FrozenRoIs, detect
from tabulate import tabulate
from torch import Tensor

from longtail.commands.calibrate import errors
from longtail.config import load_config
from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.statistics.counting import load_records
from longtail.evaluation import LVISEvaluator
from longtail.evaluation.judged import Judged, judge_saved
from longtail.evaluation.score_maps import METHODS, ScoreMap, apply_score_maps, fit_score_maps
from longtail.modeling.post_hoc import logit_normalization, normalized_calibration
from longtail.utils.errors import ending_in_one_line

ITERATIONS = 400
GAMMAS = (0.5, 1.0)
SHOWN = ("AP", "APr", "APc", "APf", "AP@1", "AP_pool", "F1", "F1 r", "surest acc")
ERRORS = ("ECE", "classwise ECE", "Brier")
Calibration = Callable[[Tensor, Tensor], Tensor]


def unchanged(logits: Tensor, _: Tensor) -> Tensor:
    """The first stage's logits."""
    return logits


class Comparison:
    """One detector, its two halves of val, and what they are measured with."""

    def __init__(self, study: Study) -> None:
        """Read what is frozen of val."""
        self.study = study
        rois = study.detector.rois(VAL, None)
        of_image = {image.image_id: item for image, item in zip(study.images, rois, strict=True)}
        self.halves = _halves(study.images)
        self.rois = [[of_image[image.image_id] for image in half] for half in self.halves]

    def rows(self) -> dict[str, dict[str, float]]:
        """The metrics of every method."""
        study, both = self.study, (unchanged, unchanged)
        counts = torch.from_numpy(get_class_stats((TRAIN,)).image_count)
        zeros = torch.zeros(len(counts))
        rows = {}
        rows["first stage"], first = self.measure(both)
        shifts = {"logit adjustment, lambda 1": study.margins}
        for gamma in GAMMAS:
            shifts[f"NorCal, gamma {gamma}"] = normalized_calibration(zeros, counts, gamma)
        for name, shift in shifts.items():
            rows[name] = self.measure([lambda z, _, s=shift: z + s] * 2)[0]
        rows["LogN"] = self.crossed(_logn)
        for method in METHODS:
            maps = [
                fit_score_maps(method, fit.classes, fit.scores, fit.hits, len(counts))
                for fit in reversed(first)
            ]
            rows[method] = self.measure(both, maps)[0]
        recipe = replace(LONG, iterations=ITERATIONS, source="held-out", confidence=False)
        fits = {
            "DisAlign's alpha, beta": recipe,
            "... from the prior": replace(recipe, prior=True),
            "... with confidence": replace(recipe, confidence=True),
        }
        for name, one in fits.items():
            rows[name] = self.crossed(lambda rois, one=one: study.fit(one, rois))
        return rows

    def crossed(self, fit: Callable[[list[FrozenRoIs]], Calibration]) -> dict[str, float]:
        """Fit a calibration of logits to each half, and measure it on the other one."""
        return self.measure([fit(rois) for rois in reversed(self.rois)])[0]

    @torch.no_grad()
    def measure(
        self,
        calibrations: Sequence[Calibration],
        maps: Sequence[list[ScoreMap] | None] = (None,) * 2,
    ) -> tuple[dict[str, float], list[Judged]]:
        """Metrics in percent, the mean of the halves, and the judged detections of each."""
        found, judged = [], []
        for half, calibration, of_scores in zip(self.halves, calibrations, maps, strict=True):
            with tempfile.TemporaryDirectory() as folder, _registered(half, folder) as name:
                evaluator = LVISEvaluator(
                    name,
                    folder,
                    modes=("standard", "pool"),
                    tasks=("bbox",),
                    training_sets=(TRAIN,),
                    decisions=True,
                )
                for image in half:
                    output = detect(self.study.detector.cfg, image, calibration)
                    if of_scores is not None:
                        terms = output.pred_classes.numpy(), output.scores.numpy()
                        mapped = apply_score_maps(of_scores, *terms)
                        output.scores = torch.from_numpy(mapped).float()
                    evaluator.process([{"image_id": image.image_id}], [{"instances": output}])
                metrics = evaluator.evaluate()["bbox"]
                judged.append(judge_saved(name, f"{folder}/lvis_instances_results.json"))
            measured = zip(ERRORS, errors(judged[-1], judged[-1].scores), strict=True)
            found.append({**{key: metrics[key] for key in SHOWN}, **dict(measured)})
        return {key: statistics.mean(half[key] for half in found) for key in found[0]}, judged


@contextlib.contextmanager
def _registered(images: Sequence[FrozenImage], folder: str) -> Iterator[str]:
    """A part of val as a data set."""
    name = f"{VAL}_half"
    chosen = {image.image_id for image in images}
    metadata = MetadataCatalog.get(VAL).as_dict()
    content = json.loads(Path(metadata["json_file"]).read_text(encoding="utf-8"))
    content["images"] = [item for item in content["images"] if item["id"] in chosen]
    content["annotations"] = [i for i in content["annotations"] if i["image_id"] in chosen]
    path = Path(folder) / "half.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    records = [record for record in load_records(VAL) if record["image_id"] in chosen]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(**{**metadata, "name": name, "json_file": str(path)})
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _logn(rois: list[FrozenRoIs]) -> Calibration:
    logits = torch.cat([item.logits for item in rois])[:, :-1].double()
    mean, deviation = logits.mean(dim=0), logits.std(dim=0, correction=0)
    K = len(mean)
    # Of the identity, so that the rows are the factors.
    weight, bias = logit_normalization(torch.eye(K), torch.zeros(K), mean, deviation)
    return lambda z, _: z @ weight.T + bias


def main() -> None:
    """Measure every detector, print mean and standard deviation, and write all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", required=True, help="checkpoints, one a seed")
    parser.add_argument("--work", required=True, type=Path, help="folder for what is computed")
    arguments = parser.parse_args()
    with ending_in_one_line():
        seeds = []
        for seed, weights in enumerate(arguments.weights):
            random.seed(seed)
            cfg = load_config(CONFIG, ["MODEL.WEIGHTS", weights, "MODEL.CHANNELS_LAST", "False"])
            detector = FrozenDetector(cfg, arguments.work / f"seed{seed}")
            seeds.append(Comparison(Study(detector, VAL, seed)).rows())
            print(f"seed {seed} done", flush=True)
        columns = (*SHOWN, *ERRORS)
        table = [
            [name, *(_spread([s[name][c] for s in seeds]) for c in columns)] for name in seeds[0]
        ]
        print(tabulate(table, headers=["", *columns], disable_numparse=True))
        save_result("calibration_posthoc", {"seeds": seeds, "iterations": ITERATIONS})


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
