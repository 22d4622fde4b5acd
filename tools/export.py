"""Write a trained model for deployment, and prove that the file computes the same.

    python tools/export.py --config-file STAGE2.yaml --weights STAGE2/model_final.pth \\
        --output deployed.pth

A checkpoint of the baseline is written wherever that is exact: whatever reads detectron2's
checkpoints then runs the method at no cost. It is for

- DisAlign without confidence (MODEL.DISALIGN.CONFIDENCE False) on a linear classifier,
- LWS on a linear classifier, and cRT,
- post hoc methods (MODEL.POST_HOC.METHOD; the training set must be there, but for tau_norm),
- a semantic head with a region branch, which is left out,
- baselines.

The last line says which config the checkpoint belongs to. Anything else (a confidence, or a cosine
classifier with a calibration or factors) becomes TorchScript: a file that needs neither this
project nor detectron2. It takes one image, (3, H, W) uint8, of the size and the order of channels
(INPUT.FORMAT) that the model is tested with, and gives a tuple of tensors:

- images of one class each: scores (K,),
- semantic segmentation: logits (K, H, W); windows (TEST.SEM_SEG.MODE slide) are the caller's,
- detectors: boxes (D, 4) in pixels of that image, scores (D,), classes (D,), and with masks their
  probabilities (D, 1, 28, 28) on a grid over each box.

For detectors import torchvision before torch.jit.load: it has two of the operators.

Either file is read back and compared with the model on random images; the largest difference is
printed. If it is too large, nothing is written and the exit code is 1.
"""

import argparse
import copy
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from disalign.folding import fold_detector, fold_image_classifier, fold_segmentor
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # train_net.py is in no package

import train_net
from longtail.engine import Trainer
from longtail.engine.checkpoint import CompleteCheckpointer
from longtail.engine.export import (
    check_kind,
    fold_retrained,
    fold_scaling,
    write_checkpoint,
    write_torchscript,
)
from longtail.engine.post_hoc import APPLIED, apply_post_hoc, check_not_applied

FORMATS = ("auto", "checkpoint", "torchscript")
# META_ARCHITECTURE of second stages: that of their baseline, and what folds them into it.
SECOND_STAGES: dict[str, tuple[str, Callable[[nn.Module], None]]] = {
    "RetrainedImageClassifier": ("ImageClassifier", fold_retrained),
    "ScaledImageClassifier": ("ImageClassifier", fold_scaling),
    "DisAlignImageClassifier": ("ImageClassifier", fold_image_classifier),
    "DisAlignRCNN": ("GeneralizedRCNN", fold_detector),
}
# That of semantic segmentation is a head.
SECOND_STAGE_HEAD = "DisAlignSemSegHead"
# What a baseline may have otherwise than the config that it comes from.
BASELINE_KEYS = ("MODEL.META_ARCHITECTURE", "MODEL.SEM_SEG_HEAD.NAME", "MODEL.POST_HOC.METHOD")


def export(options: argparse.Namespace) -> None:
    """Write the file, and print what it is.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, KeyError: bad input; the message says what to do.
    """
    if os.path.isdir(options.output) or options.output.endswith(".pkl"):
        raise ValueError(
            f"--output {options.output} must name a file, and not end with .pkl, which stands for "
            "the model zoo's format"
        )
    cfg = train_net.load_config(options.config_file, options.opts)
    model = Trainer.build_model(train_net.deployed_config(cfg)).eval()
    check_kind(model)
    checkpointer = CompleteCheckpointer(model)
    check_not_applied(cfg, checkpointer.load(options.weights))
    _check_nothing_is_left_out(checkpointer.unused, options.weights)
    apply_post_hoc(cfg, model)
    folded = None
    if options.format != "torchscript":
        try:
            folded = fold(cfg, model)
        except ValueError as error:
            if options.format == "checkpoint":
                raise
            print(f"TorchScript, because {error}")
    size = test_size(cfg)
    if folded is None:
        difference, any_size = write_torchscript(options.output, model, size)
        print(f"{options.output}: TorchScript, largest relative difference {difference:.2g}")
        also = "images of other sizes, too" if any_size else "no other size"
        print(f"traced with {size} x {size} pixels, takes {also}")
        return
    deployed = baseline_config(cfg)
    baseline = Trainer.build_model(deployed)
    method = cfg.MODEL.POST_HOC.METHOD
    notes = {APPLIED: method} if method else {}
    difference = write_checkpoint(options.output, model, folded, baseline, size, notes)
    print(f"{options.output}: checkpoint, largest relative difference {difference:.2g}")
    print(f"config: {shlex.join([options.config_file, *options.opts, *changes(cfg, deployed)])}")


def _check_nothing_is_left_out(unused: Sequence[str], weights: str) -> None:
    """A calibration that was trained belongs to what is deployed.

    Raises:
        ValueError: the weights have tensors of a calibration that the model has not.
    """
    calibration = sorted(name for name in unused if "calibration." in name)
    if calibration:
        raise ValueError(
            f"{weights} was trained with {calibration[0]}, which this config leaves out: give the "
            "config that it was trained with"
        )


def fold(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """A copy of the model whose tensors include those of the baseline that computes the same.

    Raises:
        ValueError: there is no such baseline.
    """
    folded = copy.deepcopy(model)
    if cfg.MODEL.META_ARCHITECTURE in SECOND_STAGES:
        SECOND_STAGES[cfg.MODEL.META_ARCHITECTURE][1](folded)
    elif cfg.MODEL.SEM_SEG_HEAD.NAME == SECOND_STAGE_HEAD:
        fold_segmentor(folded)
    return folded


def baseline_config(cfg: CfgNode) -> CfgNode:
    """The config for inference that has neither a second stage nor a post hoc method."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.META_ARCHITECTURE in SECOND_STAGES:
        cfg.MODEL.META_ARCHITECTURE = SECOND_STAGES[cfg.MODEL.META_ARCHITECTURE][0]
    elif cfg.MODEL.SEM_SEG_HEAD.NAME == SECOND_STAGE_HEAD:
        cfg.MODEL.SEM_SEG_HEAD.NAME = cfg.MODEL.DISALIGN.BASE_HEAD_NAME
    cfg.MODEL.POST_HOC.METHOD = ""
    return train_net.deployed_config(cfg)


def changes(cfg: CfgNode, deployed: CfgNode) -> list[str]:
    """Keys and values of the baseline where the given config says something else."""
    found = []
    for key in BASELINE_KEYS:
        before, after = cfg, deployed
        for part in key.split("."):
            before, after = before[part], after[part]
        if before != after:
            found += [key, after]
    return found


def test_size(cfg: CfgNode) -> int:
    """Height and width, in pixels, of a square image of the size of testing."""
    if cfg.MODEL.BACKBONE.NAME == "TimmClassificationBackbone":
        return cfg.INPUT.CLASSIFICATION.SIZE
    # 0 stands for images as they are.
    return cfg.INPUT.MIN_SIZE_TEST or 512


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="auto (default): a checkpoint where that is exact, otherwise TorchScript",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="replaced config values")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    try:
        export(options)
    except train_net.INPUT_ERRORS as error:
        raise SystemExit(f"error: {train_net.one_line(error)}") from None


if __name__ == "__main__":
    main()
