# SPDX-License-Identifier: Apache-2.0
"""Folders of finished runs, written by hand: what the evaluations leave behind."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import yaml

from longtail.config import get_config_file, load_config

NAMES = ("road", "tree", "pole")
GROUPS = ("head", "body", "tail")
PIXELS = (900, 90, 10)
IMAGES = (9, 5, 2)


def write_run(
    folder: Path,
    metrics: Mapping[str, float],
    iou: Sequence[float | None] = (90.0, 40.0, None),
    *,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    confusion: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] = NAMES,
    dataset: str = "toy_val",
    fingerprint: str = "f" * 64,
    iteration: int | None = 10,
    multi_scale: bool = False,
    history: Sequence[Mapping[str, float]] = (),
) -> Path:
    """Write a run of semantic segmentation.

    Args:
        folder: OUTPUT_DIR.
        metrics: mIoU, mAcc, aAcc and fwIoU; those that are not given are 50.
        iou: of the classes, None where there is no ground truth; Acc is one more.
        seed: SEED.
        config: nested values of the config, beside those of a default.
        confusion: (K, K) counts.
        names: of the classes, each a group of its own.
        dataset: name of the test set.
        fingerprint: of the test set.
        iteration: that was evaluated, of 10.
        multi_scale: whether it is an evaluation of several scales.
        history: lines of metrics.json.
    """
    values = dict.fromkeys(("mIoU", "mAcc", "aAcc", "fwIoU"), 50.0) | dict(metrics)
    report = {
        **head("sem_seg", dataset, fingerprint),
        **values,
        "groups": {
            group: {"mIoU": value, "mAcc": acc_of(value), "num_classes": 1}
            for group, value in zip(GROUPS, iou, strict=False)
        },
        "classes": [
            {
                "index": index,
                "name": name,
                "group": GROUPS[index % 3],
                "train_pixels": PIXELS[index % 3],
                "train_images": IMAGES[index % 3],
                "IoU": iou[index],
                "Acc": acc_of(iou[index]),
            }
            for index, name in enumerate(names)
        ],
        "provenance": provenance(seed, config or {}, iteration, str(folder)),
    }
    place = folder / ("inference_TTA" if multi_scale else "inference") / dataset
    write_report(place / "sem_seg_evaluation.json", report)
    write_confusion(place, confusion if confusion is not None else np.diag(range(len(names))))
    if history:
        lines = "".join(json.dumps(line) + "\n" for line in history)
        (folder / "metrics.json").write_text(lines)
    return folder


def write_classification(
    folder: Path,
    average: float,
    *,
    dataset: str,
    config: Mapping[str, Any],
    iteration: int | None,
    fingerprint: str = "f" * 64,
) -> Path:
    """Write a run of image classification: many is 1 above the average, few is 1 below it."""
    groups = {"many": average + 1, "few": average - 1}
    report = {
        **head("classification", dataset, fingerprint),
        **{"mean_acc": average, "top1": average, "top5": 99.0},
        "groups": {name: {"mean_acc": value, "num_classes": 1} for name, value in groups.items()},
        "classes": [
            {"index": index, "name": name, "group": name, "train_images": 9, "acc": value}
            for index, (name, value) in enumerate(groups.items())
        ],
        "provenance": provenance(0, config, iteration, str(folder)),
    }
    write_report(folder / "inference" / dataset / "classification_evaluation.json", report)
    return folder


def write_detection(
    folder: Path,
    metrics: Mapping[str, Mapping[str, float]],
    *,
    dataset: str,
    config: Mapping[str, Any],
    iteration: int | None,
) -> Path:
    """Write a run of LVIS; ``metrics`` are of ``bbox`` and ``segm``."""
    category = {"id": 1, "name": "cup", "frequency": "r", "train_images": 2, "train_instances": 3}
    report = {
        **head("lvis", dataset),
        "tasks": metrics,
        "categories": [{**category, **{task: {"AP": v["AP"]} for task, v in metrics.items()}}],
        "provenance": provenance(0, config, iteration, str(folder)),
    }
    write_report(folder / "inference" / dataset / "lvis_evaluation.json", report)
    return folder


def recorded(config: str, *overrides: Any) -> dict[str, Any]:
    """The config of a run of a packaged config, as its evaluations record it.

    Args:
        config: below ``configs/``.
        overrides: alternating keys and values.
    """
    cfg = load_config(get_config_file(config), ["MODEL.DEVICE", "cpu", *map(str, overrides)])
    return yaml.safe_load(cfg.dump())


def head(task: str, dataset: str, fingerprint: str = "f" * 64) -> dict[str, Any]:
    """The first entries of a report."""
    return {
        "format": 1,
        "task": task,
        "dataset": dataset,
        "fingerprint": fingerprint,
        "num_images": 7,
    }


def provenance(
    seed: int, config: Mapping[str, Any], iteration: int | None, output: str
) -> dict[str, Any]:
    """The origin of a report."""
    values: dict[str, Any] = {"SEED": seed, "SOLVER": {"MAX_ITER": 10}, "OUTPUT_DIR": output}
    for key, value in config.items():
        merged = isinstance(value, dict)
        values[key] = {**values.get(key, {}), **value} if merged else value
    return {
        "config": yaml.safe_dump(values),
        "seed": seed,
        "weights": "",
        "device": "cpu",
        "versions": {"torch": "2.0"},
        "commit": None,
        "time": "2026-01-02T03:04:05+00:00",
        "iteration": iteration,
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as the evaluators name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report))


def write_confusion(folder: Path, counts: Sequence[Sequence[int]]) -> None:
    """Write a confusion matrix, rows the ground truth."""
    scipy.sparse.save_npz(folder / "confusion_matrix.npz", scipy.sparse.coo_array(np.array(counts)))


def acc_of(iou: float | None) -> float | None:
    """What the accuracy of a class is here."""
    return None if iou is None else iou + 1
