# SPDX-License-Identifier: Apache-2.0
"""The samplers' expected frequencies against their formulas; see method_parity.py.

Shapes: N images, K classes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from unittest import mock

import numpy as np
import torch

from benchmarks.parity import EXACT, FLOAT32, TRANSCRIPTION, Comparison, difference
from longtail.config import get_cfg
from longtail.data.samplers import build_train_sampler
from longtail.data.samplers.training import SAMPLER_REGISTRY
from longtail.losses import BOXES, EVERYWHERE, IMAGES, LossTask
from tests.references import methods as references

# Images by the number of classes.
SIZES = {7: 60, 1203: 4000}
THRESHOLD, TEMPERATURE = 0.05, 0.1
# detectron2 computes them, in float32.
IN_FLOAT32 = "RepeatFactorTrainingSampler"
# Of every image the pixels, the instances, or 1, by class.
Images = Sequence[Mapping[int, int]]


def make_images(task: LossTask, K: int) -> Images:
    """Images of classes with a long tail; of detection and segmentation some show none."""
    generator = np.random.default_rng(0)
    weights = np.arange(1, K + 1.0) ** -1.2
    found: list[dict[int, int]] = []
    for _ in range(SIZES[K]):
        number = 1 if task is IMAGES else generator.integers(0, 6)
        drawn = generator.choice(K, size=number, p=weights / weights.sum())
        scale = 1 if task in (IMAGES, BOXES) else 100
        found.append({int(c): n * scale for c, n in sorted(Counter(drawn.tolist()).items())})
    return found


def make_records(task: LossTask, images: Images) -> list[dict]:
    """The images as records of detectron2."""
    if task is IMAGES:
        return [{"file_name": "image", "label": next(iter(classes))} for classes in images]
    if task is BOXES:
        return [
            {
                "file_name": "image",
                "annotations": [{"category_id": c} for c in Counter(n).elements()],
            }
            for n in images
        ]
    return [{"file_name": "image", "sem_seg_file_name": "map"} for _ in images]


def expected_shares(name: str, images: Images) -> list[float]:
    """The formula of a sampler.

    Raises:
        KeyError: none is written down.
    """
    N = len(images)
    of_class: dict[int, list[int]] = {}
    counts: Counter[int] = Counter()
    for i, classes in enumerate(images):
        counts.update(classes)
        for c in classes:
            of_class.setdefault(c, []).append(i)
    parts = {c: n / sum(counts.values()) for c, n in counts.items()}
    frequency = {c: len(found) / N for c, found in of_class.items()}
    both = {c: (frequency[c] * parts[c]) ** 0.5 for c in parts}
    power, by_class = references.power_of_images, references.by_class
    return {
        "TrainingSampler": lambda: [1 / N] * N,
        "RandomSubsetTrainingSampler": lambda: [1 / N] * N,
        "ClassBalancedTrainingSampler": lambda: by_class(power(of_class, 0.0), of_class, N),
        "SquareRootTrainingSampler": lambda: by_class(power(of_class, 0.5), of_class, N),
        "RareClassTrainingSampler": lambda: by_class(
            references.rare_classes(parts, TEMPERATURE), of_class, N
        ),
        "RepeatFactorTrainingSampler": lambda: references.repeats(
            [list(classes) for classes in images], frequency, THRESHOLD
        ),
        "InstanceAwareRepeatFactorTrainingSampler": lambda: references.repeats(
            [list(classes) for classes in images], both, THRESHOLD
        ),
    }[name]()


def compare_sampler(name: str, task: LossTask, K: int) -> float:
    """Difference of the expected part of the draws that each image has."""
    images = make_images(task, K)
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = name
    cfg.DATALOADER.REPEAT_THRESHOLD = THRESHOLD
    cfg.DATALOADER.RARE_CLASS_TEMPERATURE = TEMPERATURE
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    with ExitStack() as stack:
        if task not in (IMAGES, BOXES):
            # Instead of reading label maps.
            for module in ("by_class", "repeating"):
                place = f"longtail.data.samplers.{module}.count_occurrences"
                stack.enter_context(mock.patch(place, return_value=list(images)))
        sampler = build_train_sampler(cfg, make_records(task, images), seed=0)
    expected = torch.tensor(expected_shares(name, images), dtype=torch.float64)
    return difference(sampler.shares(len(images)), expected)


def compare_samplers(sizes: Sequence[int] = tuple(SIZES)) -> Iterator[Comparison]:
    """Every registered sampler on every task that it is for.

    Args:
        sizes: numbers of classes, of SIZES.
    """
    for task in EVERYWHERE:
        for name, kind in SAMPLER_REGISTRY:
            if kind.instances_alone and task is not BOXES:
                continue
            value = max(compare_sampler(name, task, K) for K in sizes)
            bound = FLOAT32 if name == IN_FLOAT32 else EXACT
            yield Comparison(
                "sampler", name, task.samples, TRANSCRIPTION, value, None, *bound, tuple(sizes)
            )
