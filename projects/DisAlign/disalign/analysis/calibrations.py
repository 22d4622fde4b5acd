# SPDX-License-Identifier: Apache-2.0
"""alpha, beta and sigma of trained second stages of all tasks.

Shape alphabet:
    K: foreground classes
    S: samples of one frequency group, or of the background: RoIs, pixels or images
    T: checkpoints
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from disalign.calibrated import Calibrated
from longtail.data.statistics.class_stats import ClassStats
from longtail.engine import Trainer
from longtail.engine.checkpoint import load_tensors
from longtail.engine.training.stages import load_second_stage

BACKGROUND = "background"
# Percent.
QUANTILES = (5, 25, 50, 75, 95)
# What an untrained calibration is.
START = {"alpha": 1.0, "beta": 0.0}
# Of one calibrated classifier: (S,) sigma of the samples of a group.
SigmaByGroup = dict[str, np.ndarray]
_PERIODIC = re.compile(r"model_(\d+|final)\.pth")


class Task(NamedTuple):
    """A task's second stage.

    Attributes:
        key: config key that turns it on.
        value: what the key then says.
        counted: what Eq. 11 counts, a field of ClassStats.
        samples: what sigma is computed for.
    """

    key: str
    value: str
    counted: str
    samples: str

    @property
    def unit(self) -> str:
        """What is counted, for labels, such as ``training pixels``."""
        return f"training {self.counted.removesuffix('_count')}s"


TASKS = (
    Task("MODEL.META_ARCHITECTURE", "DisAlignRCNN", "instance_count", "RoIs"),
    Task("MODEL.META_ARCHITECTURE", "DisAlignImageClassifier", "image_count", "images"),
    Task("MODEL.SEM_SEG_HEAD.NAME", "DisAlignSemSegHead", "pixel_count", "pixels"),
)


def load_model(cfg: CfgNode, weights: str, class_names: Sequence[str] = ()) -> nn.Module:
    """A trained second stage, every module in its mode for training.

    Args:
        cfg: its config.
        weights: its checkpoint.
        class_names: of the training set, to be those of the checkpoint; empty if not known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights do not have a calibration, or are not those of this config.
    """
    model = Trainer.build_model(cfg)
    load_second_stage(model, weights, class_names)
    # A first stage's checkpoint is also one to start from: nothing learned, and no complaint.
    if not any(".calibration." in f".{name}" for name in _tensors(weights)):
        raise ValueError(
            f"the weights {weights} have no calibration: give a checkpoint that the second stage "
            f"wrote, such as {os.path.join(cfg.OUTPUT_DIR, 'model_final.pth')}"
        )
    return model


def calibrated_classifiers(model: nn.Module) -> dict[str, Calibrated]:
    """The calibrated classifiers of a model by name: one, or one for each stage of the box head.

    Args:
        model: of :func:`load_model`.
    """
    return {name: m for name, m in model.named_modules() if isinstance(m, Calibrated)}


@torch.no_grad()
def sigma_by_group(model: nn.Module, cfg: CfgNode, batches: int) -> list[SigmaByGroup]:
    """sigma(x) of the samples of training batches, for each calibrated classifier.

    Args:
        model: what :func:`load_model` gave.
        cfg: its config.
        batches: how many batches.

    Returns:
        For each classifier (S,) values in [0, 1] by the frequency group of the sample's class, or
        ``background``; a group without samples is left out.
    """
    classifiers = list(calibrated_classifiers(model).values())
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    for classifier in classifiers:
        classifier.recorded = []
    try:
        # Training steps count into the storage.
        with EventStorage():
            for batch in itertools.islice(Trainer.build_train_loader(cfg), batches):
                model(batch)
        return [_by_group(classifier) for classifier in classifiers]
    finally:
        for classifier in classifiers:
            classifier.recorded = None


def _by_group(classifier: Calibrated) -> SigmaByGroup:
    sigma, classes = (
        np.concatenate([part.flatten().float().cpu().numpy() for part in parts])
        for parts in zip(*classifier.recorded, strict=True)
    )
    groups = {**classifier.class_groups, BACKGROUND: [len(classifier.calibration.alpha)]}
    found = {name: sigma[np.isin(classes, members)] for name, members in groups.items()}
    return {name: of_group for name, of_group in found.items() if len(of_group)}


def class_values(
    calibration: nn.Module,
    stats: ClassStats,
    groups: Mapping[str, Sequence[int]],
    counted: str,
) -> list[dict[str, Any]]:
    """Name, group, count in training, alpha and beta of each of the K classes.

    Args:
        calibration: of a calibrated classifier.
        stats: of the training set.
        groups: class indices by frequency group.
        counted: a field of ``stats``.
    """
    group_of_class = {index: name for name, indices in groups.items() for index in indices}
    alpha, beta = calibration.alpha.tolist(), calibration.beta.tolist()
    counts = getattr(stats, counted).tolist()
    return [
        {
            "name": name,
            "group": group_of_class[index],
            counted: counts[index],
            "alpha": alpha[index],
            "beta": beta[index],
        }
        for index, name in enumerate(stats.class_names)
    ]


def summary(sigma: np.ndarray) -> dict[str, Any]:
    """Number of samples and quantiles of their sigma, by percent."""
    quantiles = np.percentile(sigma, QUANTILES).tolist()
    return {
        "samples": len(sigma),
        "quantiles": {str(q): v for q, v in zip(QUANTILES, quantiles, strict=True)},
    }


def read_history(model: nn.Module, weights: str) -> dict[str, Any]:
    """Alpha and beta in the checkpoints of a run.

    Args:
        model: of :func:`load_model`.
        weights: one of the checkpoints; the others lie beside it.

    Returns:
        ``iterations``, T numbers of iterations done, the first 0, before training; and ``stages``,
        for each calibrated classifier (T, K) ``alpha`` and ``beta``.

    Raises:
        ValueError: there are fewer than two checkpoints, or one is of another model.
    """
    folder = Path(weights).parent
    steps: dict[int, dict[str, torch.Tensor]] = {}
    for path in sorted(folder.glob("model_*.pth")):
        if match := _PERIODIC.fullmatch(path.name):
            content = load_tensors(str(path))
            number = content.get("iteration", match[1])
            # Of a last checkpoint that somebody has stripped, nobody knows when it was.
            if number != "final":
                # Numbered from 0.
                steps[int(number) + 1] = content.get("model", content)
    if len(steps) < 2:
        raise ValueError(
            f"--history: {folder} has {len(steps)} checkpoints model_*.pth of different "
            "iterations, needed are 2 or more: train with SOLVER.CHECKPOINT_PERIOD"
        )
    iterations = sorted(steps)
    stages = []
    for name, classifier in calibrated_classifiers(model).items():
        values = {}
        for kind, start in START.items():
            shape = getattr(classifier.calibration, kind).shape
            key = f"{name}.calibration.{kind}".lstrip(".")
            # What is not learned is in no checkpoint.
            rows = [steps[done].get(key, torch.full(shape, start)) for done in iterations]
            if any(row.shape != shape for row in rows):
                raise ValueError(f"--history: {folder} has checkpoints of another model ({key})")
            values[kind] = torch.stack([torch.full(shape, start), *rows]).double().numpy()
        stages.append(values)
    return {"iterations": [0, *iterations], "stages": stages}


def _tensors(weights: str) -> Mapping[str, Any]:
    content = load_tensors(weights)
    return content.get("model", content)
