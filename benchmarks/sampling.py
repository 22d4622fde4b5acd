# SPDX-License-Identifier: Apache-2.0
"""How often rare classes are seen in training, and what that costs: samplers and copy-paste.

    python benchmarks/sampling.py [--iterations 60]

Of each config the training loader is read for some iterations: the part of the images in which a
class is seen, as the model gets them (cropped), is put beside the part of the drawn images that
have it, as it follows from the counts. Short trainings with these samplers are in short_runs.py.
Groups are those of LVIS (to 10, to 100 training images, more) unless the data set is registered
with bounds of its own. Needs CCP and IoTKITs-LT; without them a data set is left out.
"""

import argparse
import os
import time
from typing import Any

import numpy as np
from common import save_result
from detectron2.config import CfgNode

from longtail.config import load_config
from longtail.data.samplers import build_train_sampler
from longtail.data.samplers.occurrences import count_occurrences, image_frequency
from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.statistics.counting import frequency_bounds
from longtail.data.statistics.groups import frequency_groups
from longtail.engine import Trainer
from longtail.engine.training.data_sets import training_records

SAMPLER = "DATALOADER.SAMPLER_TRAIN"
CCP, BOARDS = "CCP/deeplabv3plus_lite0", "IoTKITs-LT/mask_rcnn_lite0_FPN"
# By data set: the variants, each a config and what is changed in it.
VARIANTS: dict[str, dict[str, tuple[str, list]]] = {
    "CCP": {
        "uniform": (CCP, []),
        # A class in every 20th image is repeated.
        "repeat factors": (
            CCP,
            [SAMPLER, "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 0.05],
        ),
        "class-balanced": (CCP, [SAMPLER, "ClassBalancedTrainingSampler"]),
        "rare-class": (f"{CCP}_rcs", []),
        "uniform, copy-paste": (CCP, ["INPUT.COPY_PASTE.PROBABILITY", 0.5]),
        "rare-class, copy-paste": (f"{CCP}_rcs_copy_paste", []),
    },
    "IoTKITs-LT": {
        "uniform": (BOARDS, []),
        "uniform, masks of pixels": (BOARDS, ["INPUT.MASK_FORMAT", "bitmask"]),
        "repeat factors": (f"{BOARDS}_rfs", []),
        "instance-aware repeat factors": (f"{BOARDS}_irfs", []),
        "rare-class": (BOARDS, [SAMPLER, "RareClassTrainingSampler"]),
        "instance-aware repeat factors, copy-paste": (f"{BOARDS}_irfs_copy_paste", []),
    },
}


def seen_classes(mapped: dict[str, Any], ignore_label: int) -> set[int]:
    """The classes that the model gets in an image."""
    if "instances" in mapped:
        return set(mapped["instances"].gt_classes.tolist())
    return set(mapped["sem_seg"].unique().tolist()) - {ignore_label}


def measure(cfg: CfgNode, iterations: int) -> dict[str, Any]:
    """Read batches as a training does, in this process."""
    records = training_records(cfg)
    occurrences = count_occurrences(cfg, records)
    stats = get_class_stats(cfg.DATASETS.TRAIN)
    num_classes = len(stats.class_names)
    shares = build_train_sampler(cfg, records, seed=cfg.SEED).shares(len(records))
    expected = image_frequency(occurrences, num_classes, shares)
    loader = Trainer.build_train_loader(cfg)
    loader.seed(cfg.SEED)
    seen, number = np.zeros(num_classes), 0
    # Of this process alone: others may share its core.
    start = time.process_time()
    for _, batch in zip(range(iterations), loader, strict=False):
        for mapped in batch:
            seen[list(seen_classes(mapped, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE))] += 1
            number += 1
    seconds = time.process_time() - start
    groups = frequency_groups(stats.image_count, frequency_bounds(cfg.DATASETS.TRAIN))
    occur = {name: [c for c in g if stats.image_count[c]] for name, g in groups.items()}
    return {
        "images": number,
        "classes": {name: len(group) for name, group in occur.items()},
        "drawn_expected_percent": _means(100 * expected, occur),
        "seen_percent": _means(100 * seen / number, occur),
        "never_seen": int(sum(not seen[c] for group in occur.values() for c in group)),
        "cpu_ms_per_image": round(1000 * seconds / number, 2),
    }


def _means(values: np.ndarray, groups: dict[str, list[int]]) -> dict[str, float]:
    return {name: round(float(values[group].mean()), 2) for name, group in groups.items() if group}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()
    figures: dict[str, Any] = {"iterations": options.iterations}
    for dataset, variants in VARIANTS.items():
        rows = figures[dataset] = {}
        for name, (config, changes) in variants.items():
            changes = [*changes, "SEED", 1, "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", os.devnull]
            cfg = load_config(f"{config}.yaml", [str(value) for value in changes])
            try:
                rows[name] = measure(cfg, options.iterations)
            except FileNotFoundError as error:
                print(f"{dataset} is left out: {error}")
                break
            print(dataset, name, rows[name], flush=True)
    save_result("sampling", figures)


if __name__ == "__main__":
    main()
