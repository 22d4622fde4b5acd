# SPDX-License-Identifier: Apache-2.0
"""A training run or an evaluation, as ``longtail train`` does it."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from longtail.config import deployed_config, find_config_file, load_config
from longtail.data.datasets.sharing import records_read_once
from longtail.engine import Trainer, launch_training
from longtail.engine.checkpoint import CLASS_NAMES, CompleteCheckpointer
from longtail.engine.console import say_what_is_trained, set_up_run
from longtail.engine.deployment.post_hoc import (
    apply_post_hoc,
    check_not_applied,
    check_training_classes,
)
from longtail.engine.deployment.score_calibration import check_calibration_file
from longtail.engine.launch import is_first_to_fail
from longtail.engine.run_folder import run_folder
from longtail.engine.training.data_sets import align_test_sets, check_test_sets
from longtail.modeling.sem_seg.segmentor import is_semantic_segmentor
from longtail.utils.errors import ended


def start(args: argparse.Namespace) -> None:
    """Start the processes of a run, and wait for them.

    Args:
        args: what ``longtail train`` parsed.

    Raises:
        ValueError: a process was ended by a signal.
        SystemExit: a process has failed, and has said why.
    """
    try:
        launch_training(run_process, args)
    except ProcessExitedException as error:
        if error.signal_name:
            raise ValueError(
                f"process {error.error_index} of the run was ended by {error.signal_name}, "
                "often for lack of memory"
            ) from None
        # The process that failed has said why.
        sys.exit(error.exit_code)


def run_process(args: argparse.Namespace) -> None:
    """The work of one process, which ends in one line, whatever goes wrong.

    Args:
        args: what ``longtail train`` parsed.
    """
    # detectron2 would log the traceback of what is said in one line here.
    logging.getLogger("detectron2.engine.train_loop").addFilter(_has_no_traceback)
    # And a log that cannot be written, on a full disk, one for every line.
    logging.raiseExceptions = False
    folder = ""
    try:
        # detectron2 logs the file's text, and needs to find it.
        args.config_file = args.config_file and find_config_file(args.config_file)
        cfg = load_config(args.config_file, args.opts, imports=getattr(args, "imports", ()))
        folder = cfg.OUTPUT_DIR
        _check(cfg, args.eval_only)
        cfg.freeze()
        if args.eval_only:
            set_up_run(cfg, args)
            evaluate_weights(cfg, resume=args.resume)
        else:
            # Before anything is written there.
            with _owned(cfg, args):
                set_up_run(cfg, args)
                train(cfg, resume=args.resume)
    except (Exception, KeyboardInterrupt) as error:
        if not is_first_to_fail():
            raise SystemExit(1) from None
        name = f"traceback_rank{comm.get_rank()}.txt"
        raise ended(error, folder, name=name, always=True) from None


def _owned(cfg: CfgNode, args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Let the main process own OUTPUT_DIR as long as the training runs."""
    if not comm.is_main_process():
        return contextlib.nullcontext()
    return run_folder(
        cfg.OUTPUT_DIR,
        weights=cfg.MODEL.WEIGHTS,
        resume=args.resume,
        overwrite=getattr(args, "overwrite", False),
    )


def _check(cfg: CfgNode, eval_only: bool) -> None:
    """Refuse a config whose options do not belong together.

    Raises:
        ValueError: options that do not belong together.
    """
    if cfg.TEST.AUG.ENABLED and not is_semantic_segmentor(cfg):
        raise ValueError(
            "TEST.AUG.ENABLED: multi-scale testing is for semantic segmentation, not for "
            f"{cfg.MODEL.META_ARCHITECTURE}"
        )
    if cfg.MODEL.POST_HOC.METHOD and not eval_only:
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {cfg.MODEL.POST_HOC.METHOD} changes a trained model: add "
            "--eval-only, or set it to '' to train"
        )
    check_calibration_file(cfg)
    if not cfg.DATASETS.TRAIN and not eval_only:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on")


def train(cfg: CfgNode, *, resume: bool) -> None:
    """Train, from the last checkpoint in OUTPUT_DIR if ``resume``, and evaluate."""
    with records_read_once():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        say_what_is_trained(cfg, trainer.model)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks([EvalHook(0, lambda: trainer.test_with_TTA(cfg, trainer.model))])
    with explained_verification():
        trainer.train()


def evaluate_weights(cfg: CfgNode, *, resume: bool) -> dict:
    """Evaluate MODEL.WEIGHTS, or the last checkpoint in OUTPUT_DIR if ``resume``."""
    model = load_weights(cfg, resume=resume)
    # By the class counts of the training set, which the deployed config does not name.
    apply_post_hoc(cfg, model)
    return evaluate(cfg, model)


def load_weights(cfg: CfgNode, *, resume: bool = False) -> torch.nn.Module:
    """Build the model to be evaluated, before any post hoc method, and check the test sets.

    Args:
        cfg: the complete config.
        resume: take the last checkpoint in OUTPUT_DIR instead of MODEL.WEIGHTS.

    Raises:
        ValueError: weights, config and data sets do not belong together.
    """
    deployed = deployed_config(cfg)
    check_test_sets(cfg, None)
    model = Trainer.build_model(deployed)
    checkpointer = CompleteCheckpointer(model, cfg.OUTPUT_DIR)
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    align_test_sets(cfg, cfg.MODEL.WEIGHTS, loaded.get(CLASS_NAMES, ()))
    check_test_sets(cfg, Trainer.build_evaluator)
    check_not_applied(cfg, loaded)
    check_training_classes(cfg, loaded)
    return model


def evaluate(cfg: CfgNode, model: torch.nn.Module) -> dict:
    """Single-scale, and with ``TEST.AUG.ENABLED`` also multi-scale, results on ``DATASETS.TEST``.

    Returns:
        Metrics by task, on the main process; they are checked against TEST.EXPECTED_RESULTS.

    Raises:
        ValueError: there is no data set to evaluate on.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name a registered data set to evaluate on")
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    if comm.is_main_process():
        with explained_verification():
            verify_results(cfg, results)
    return results


@contextlib.contextmanager
def explained_verification() -> Iterator[None]:
    """End with one line where detectron2 only logs results that are not as expected."""
    try:
        yield
    except SystemExit as ended:
        # detectron2's ends with 1; an interruption has another code.
        if ended.code != 1:
            raise
        raise SystemExit(
            "error: the results are not those of TEST.EXPECTED_RESULTS (both are in the log): set "
            "it to [] if the recipe is another on purpose"
        ) from None


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info
