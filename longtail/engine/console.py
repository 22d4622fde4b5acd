# SPDX-License-Identifier: Apache-2.0
"""The console of a run: a dozen lines, then the progress. The rest is in ``log.txt`` alone."""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterable

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from longtail.data.statistics.class_stats import get_class_stats
from longtail.utils.detectron2 import plain_config_text

logger = logging.getLogger(__name__)

# Messages of more lines are not shown: environment, config, model, the table of all classes.
MOST_LINES = 2
# Nor is what says how detectron2 keeps its records, and the arguments, which the user has typed.
UNSEEN = ("detectron2", "detectron2.data.common")


class ShownOnConsole(logging.Filter):
    """Let through what a user watches: warnings, results, and short messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is shown."""
        if record.levelno >= logging.WARNING:
            return True
        package, _, module = record.name.partition(".")
        if package not in ("detectron2", "fvcore") or module.startswith("evaluation"):
            return True
        return record.name not in UNSEEN and record.getMessage().count("\n") < MOST_LINES


def set_up_run(cfg: CfgNode, args: Namespace) -> None:
    """Do what detectron2's ``default_setup`` does; the console shows less of it, the file all.

    Args:
        cfg: the complete config.
        args: what ``longtail train`` parsed.
    """
    rank = comm.get_rank()
    # Those that default_setup would make: it then finds them.
    for options in ({"name": "fvcore"}, {}):
        _show_less(setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, **options).handlers)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="longtail")
    # That there is no GPU is said by longtail.config.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with plain_config_text():
        default_setup(cfg, args)
    path = os.path.join(cfg.OUTPUT_DIR, "log.txt")
    logger.info(f"environment, complete config and model: {path}")


def _show_less(handlers: Iterable[logging.Handler]) -> None:
    for handler in handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(ShownOnConsole())


def say_what_is_trained(cfg: CfgNode, model: nn.Module) -> None:
    """Log data, classes, parameters and schedule, a line each.

    Args:
        cfg: the complete config. Every process has to be here if there is a test set, see
            :func:`~longtail.data.statistics.class_stats.get_class_stats`.
        model: what is trained.
    """
    logger.info(f"data: {', '.join(cfg.DATASETS.TRAIN)}")
    solver, epochs = cfg.SOLVER, ""
    # Evaluators count the training set; otherwise it need not be counted.
    if cfg.DATASETS.TEST:
        stats = get_class_stats(cfg.DATASETS.TRAIN)
        counts = np.sort(stats.image_count)
        logger.info(
            f"classes: {len(counts)} in {stats.num_images:,} images; a class is in "
            f"{counts[0]:,} to {counts[-1]:,} of them, median {np.median(counts):,.0f}"
        )
        epochs = f" ({solver.MAX_ITER * solver.IMS_PER_BATCH / stats.num_images:.1f} epochs)"
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kind = cfg.MODEL.META_ARCHITECTURE
    logger.info(f"model: {kind}, {total:,} parameters, {trained:,} of them are trained")
    logger.info(
        f"schedule: {solver.MAX_ITER:,} iterations of {solver.IMS_PER_BATCH} images{epochs}, "
        f"{solver.OPTIMIZER}, learning rate {solver.BASE_LR:g}"
    )
    if cfg.DATASETS.TEST:
        every = f"every {cfg.TEST.EVAL_PERIOD:,} iterations and " if cfg.TEST.EVAL_PERIOD else ""
        logger.info(f"evaluation: {every}at the end, on {', '.join(cfg.DATASETS.TEST)}")
