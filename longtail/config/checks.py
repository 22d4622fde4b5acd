# SPDX-License-Identifier: Apache-2.0
"""Values that no run can work with, said when a config is loaded and not when they are used."""

import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode

from longtail.config.projects import get_value

# Larger numbers overflow float32 within a few steps.
HUGE = 1e6
# Keys that an error proposes.
SHOWN = 3


def _numbers(low: float, high: float = math.inf, *, above: bool = False) -> tuple[Callable, str]:
    """Expect a number, or numbers only, in a range; without its lower end if ``above``."""

    def is_inside(value: Any) -> bool:
        values = value if isinstance(value, (list, tuple)) else [value]
        # Not "value < low": that would let NaN pass.
        return all(
            isinstance(v, (int, float)) and low <= v <= high and not (above and v == low)
            for v in values
        )

    bound = f"> {low:g}" if above else f">= {low:g}"
    return is_inside, bound if high == math.inf else f"{bound} and <= {high:g}"


def _pair(value: Any) -> bool:
    return len(value) == 2 and all(v > 0 for v in value)


def _three(low: float, *, above: bool = False) -> tuple[Callable, str]:
    """Expect one number a colour channel."""
    is_inside, bound = _numbers(low, above=above)
    expected = "three numbers" if low == -math.inf else f"three numbers {bound}"
    return lambda value: len(value) == 3 and is_inside(value), expected


def _one_of(*names: str) -> tuple[Callable, str]:
    return lambda value: value in names, f"one of {list(names)}"


COUNT = _numbers(1)
SIZE = _numbers(0, above=True)
WEIGHT = _numbers(0, HUGE)
# By key: what is right, and how that is said.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "SOLVER.IMS_PER_BATCH": COUNT,
    "SOLVER.MAX_ITER": COUNT,
    "SOLVER.CHECKPOINT_PERIOD": COUNT,
    "SOLVER.CHECKPOINT_MINUTES": _numbers(0),
    "SOLVER.CHECKPOINT_KEEP": _numbers(0),
    "SOLVER.HANG_MINUTES": _numbers(0),
    "SOLVER.ACCUMULATION_STEPS": COUNT,
    "SOLVER.WARMUP_ITERS": _numbers(0),
    "SOLVER.WARMUP_FACTOR": WEIGHT,
    "SOLVER.WARMUP_METHOD": _one_of("constant", "linear"),
    "SOLVER.STEPS": _numbers(0),
    "SOLVER.BASE_LR": WEIGHT,
    "SOLVER.POLY_LR_FLOOR": WEIGHT,
    "SOLVER.POLY_LR_POWER": WEIGHT,
    "SOLVER.GAMMA": WEIGHT,
    "SOLVER.MOMENTUM": _numbers(0, 1),
    "SOLVER.WEIGHT_DECAY": WEIGHT,
    "TEST.EVAL_PERIOD": _numbers(0),
    "TEST.DETECTIONS_PER_IMAGE": COUNT,
    "TEST.SEM_SEG.CROP_SIZE": (_pair, "two positive integers, height and width"),
    "TEST.SEM_SEG.STRIDE": (_pair, "two positive integers, height and width"),
    "DATALOADER.NUM_WORKERS": _numbers(0),
    "DATALOADER.RANDOM_SUBSET_RATIO": _numbers(0, 1, above=True),
    "DATALOADER.RARE_CLASS_TEMPERATURE": _numbers(0, above=True),
    "DATALOADER.REPEAT_THRESHOLD": _numbers(0),
    "LOG.TENSORBOARD.IMAGES": _numbers(0),
    "INPUT.FORMAT": _one_of("RGB", "BGR"),
    "INPUT.COPY_PASTE.PROBABILITY": _numbers(0, 1),
    "INPUT.RESIZE_FILTER": _one_of("opencv", "pillow"),
    "INPUT.CROP.SIZE": (_pair, "two positive integers, height and width"),
    "INPUT.MIN_SIZE_TRAIN": _numbers(0, above=True),
    "INPUT.MAX_SIZE_TRAIN": SIZE,
    "INPUT.MIN_SIZE_TEST": _numbers(0),
    "INPUT.MAX_SIZE_TEST": SIZE,
    "INPUT.RESIZE_SCALE_RANGE": (
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] < 100,
        "two positive numbers below 100 in ascending order",
    ),
    "INPUT.CLASSIFICATION.SIZE": COUNT,
    "INPUT.CLASSIFICATION.TEST_RESIZE": COUNT,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": COUNT,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": _numbers(0, 255),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": WEIGHT,
    "MODEL.SEM_SEG_HEAD.DROPOUT": _numbers(0, 1),
    "MODEL.ROI_HEADS.NUM_CLASSES": COUNT,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.CLASSIFIER.NUM_CLASSES": COUNT,
    "MODEL.POST_HOC.TAU": _numbers(0, 100),
    "MODEL.POST_HOC.TAU_BIAS": _one_of("drop", "scale"),
    "MODEL.POST_HOC.NCM_FEATURES": _one_of("centered", "normalized", "plain"),
    "MODEL.POST_HOC.NCM_DISTANCE": _one_of("euclidean", "cosine"),
    "MODEL.POST_HOC.LAMBDA": _numbers(0, 100),
    "MODEL.POST_HOC.GAMMA": _numbers(0, 100),
    "MODEL.PIXEL_STD": _three(0, above=True),
    "MODEL.PIXEL_MEAN": _three(-math.inf),
}


def check_config(cfg: CfgNode) -> None:
    """Refuse values that no run can work with.

    Args:
        cfg: a complete config.

    Raises:
        ValueError: a value is out of range, or the device does not exist; the message names key,
            value and what was expected.
    """
    for key, (is_right, expected) in RULES.items():
        value = get_value(cfg, key)
        try:
            right = is_right(value)
        except (TypeError, IndexError):
            right = False
        if not right:
            raise ValueError(f"{key} must be {expected}, got {value!r}")
    _check_device(cfg.MODEL.DEVICE)


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"MODEL.DEVICE must be cpu, cuda or cuda:N, got {name!r}") from None
    if device.type != "cuda":
        return
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ValueError(f"MODEL.DEVICE {name}: this machine has {count} GPUs; set it to cpu")


def near_keys(cfg: CfgNode, key: str) -> list[str]:
    """Keys of a config that look like one that it does not have.

    Args:
        cfg: a complete config.
        key: what was written, such as ``SOLVER.MAX_ITERS``.
    """
    return difflib.get_close_matches(key, list(_keys(cfg)), n=SHOWN, cutoff=0.7)


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name
