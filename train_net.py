#!/usr/bin/env python
"""Train and evaluate every model of the project.

python train_net.py --config-file configs/quickstart/deeplabv3plus_lite0_rr.yaml
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc_per_node 2 train_net.py --config-file ...
"""

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import verify_results
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from disalign import add_disalign_config
from disalign.roi_cache import build_roi_cache_loader
from region_rebalance import add_region_rebalance_config
from torch.multiprocessing import ProcessExitedException

import longtail.data
import longtail.modeling  # noqa: F401  (registers models)
from longtail.config import add_longtail_config
from longtail.engine import Trainer, launch_training
from longtail.engine.checkpoint import CompleteCheckpointer
from longtail.engine.data_sets import check_test_sets, training_records
from longtail.engine.post_hoc import apply_post_hoc, check_not_applied
from longtail.utils.io import atomic_write
from longtail.utils.names import registered

# What bad input raises: configs, data, weights, or a training that diverges.
INPUT_ERRORS = (ValueError, OSError, KeyError, FloatingPointError)


class ProjectTrainer(Trainer):
    """The trainer with the data loaders of the projects."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Images, or with ``MODEL.DISALIGN.ROI_FEATURE_CACHE`` what is cached of them."""
        if cfg.MODEL.DISALIGN.ROI_FEATURE_CACHE:
            return build_roi_cache_loader(cfg, training_records(cfg))
        return super().build_train_loader(cfg)


def load_config(config_file: str, overrides: list[str] | None = None) -> CfgNode:
    """The complete config: defaults of all projects, a file, then ``KEY VALUE`` pairs.

    On a machine without GPU the device becomes the CPU.

    Args:
        config_file: a YAML file, or "" for the defaults. It is read as data, never executed.
        overrides: alternating keys and values.

    Raises:
        ValueError: a key that no project declares, or a value of another type.
        FileNotFoundError: no such file.
    """
    cfg = get_cfg()
    add_deeplab_config(cfg)
    add_longtail_config(cfg)
    add_region_rebalance_config(cfg)
    add_disalign_config(cfg)
    try:
        if config_file:
            if not os.path.isfile(config_file):
                raise FileNotFoundError(f"the config file {config_file} does not exist")
            cfg.merge_from_file(config_file, allow_unsafe=False)
        cfg.merge_from_list(overrides or [])
    except (KeyError, AssertionError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"config {config_file or 'options'}: {one_line(error)}") from None
    except (AttributeError, TypeError):
        raise ValueError(
            f"config {config_file}: expected KEY: VALUE pairs, got an empty file or something else"
        ) from None
    if not torch.cuda.is_available() and cfg.MODEL.DEVICE == "cuda":
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def deployed_config(cfg: CfgNode) -> CfgNode:
    """The config of the model that is left for inference.

    The region branch, class statistics of the training set and ImageNet weights serve training
    alone: without them an evaluation needs neither the training set nor a download.

    Args:
        cfg: a complete config; it is not changed.
    """
    cfg = cfg.clone()
    cfg.defrost()
    base = cfg.MODEL.REGION_REBALANCE.BASE_HEAD_NAME
    # What the head is called by itself, and inside a calibration.
    head, disalign = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.DISALIGN
    for node, key in ((head, "NAME"), (disalign, "BASE_HEAD_NAME")):
        if node[key] == "RegionRebalanceHead":
            registered(SEM_SEG_HEADS_REGISTRY, base, "MODEL.REGION_REBALANCE.BASE_HEAD_NAME")
            node[key] = base
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_LOSS = "cross_entropy"
    cfg.DATASETS.TRAIN = ()
    cfg.MODEL.TIMM.PRETRAINED = ""
    # Only training is compiled.
    cfg.MODEL.COMPILE = False
    cfg.freeze()
    return cfg


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
    except SystemExit:
        raise SystemExit(
            "error: the results are not those of TEST.EXPECTED_RESULTS (both are in the log): set "
            "it to [] if the recipe is another on purpose"
        ) from None


def run(args: argparse.Namespace) -> None:
    """The work of one process; bad input ends in one line, with exit code 1."""
    # detectron2 would log the traceback of what is said in one line here.
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)
    try:
        _run(args)
    except INPUT_ERRORS as error:
        where = _keep_traceback(args)
        raise SystemExit(f"error: {one_line(error)}{where}") from None


def _is_no_input_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], INPUT_ERRORS))


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks, quotes and tracebacks of other processes."""
    # The text of a KeyError is the quoted form of its message.
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if "Original Traceback" in message:
        # An error of a data loader's worker: its traceback ends with type and message.
        message = message.splitlines()[-1].partition(": ")[2]
    return " ".join(message.split()) or type(error).__name__


def _run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    if cfg.TEST.AUG.ENABLED and cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor":
        raise ValueError(
            "TEST.AUG.ENABLED: multi-scale testing is for semantic segmentation, not for "
            f"{cfg.MODEL.META_ARCHITECTURE}"
        )
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="longtail")
    if args.eval_only:
        deployed = deployed_config(cfg)
        check_test_sets(cfg)
        model = Trainer.build_model(deployed)
        checkpointer = CompleteCheckpointer(model, cfg.OUTPUT_DIR)
        loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        check_not_applied(cfg, loaded)
        # By the class counts of the training set, which the deployed config does not name.
        apply_post_hoc(cfg, model)
        evaluate(cfg, model)
        return
    if cfg.MODEL.POST_HOC.METHOD:
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {cfg.MODEL.POST_HOC.METHOD} changes a trained model: add "
            "--eval-only, or set it to '' to train"
        )
    trainer = ProjectTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks([EvalHook(0, lambda: trainer.test_with_TTA(cfg, trainer.model))])
    with explained_verification():
        trainer.train()


def _keep_traceback(args: argparse.Namespace) -> str:
    """Write the traceback where whoever debugs finds it, if there is an output folder yet."""
    try:
        folder = load_config(args.config_file, args.opts).OUTPUT_DIR
    except INPUT_ERRORS:
        return ""
    if not os.path.isdir(folder):
        return ""
    path = os.path.join(folder, f"traceback_rank{comm.get_rank()}.txt")
    with atomic_write(path) as file:
        traceback.print_exc(file=file)
    return f" (details: {path})"


def main() -> None:
    """Parse the command line and start the processes."""
    args = default_argument_parser().parse_args()
    try:
        launch_training(run, args)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    except ProcessExitedException as error:
        # The process that failed has said why.
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
