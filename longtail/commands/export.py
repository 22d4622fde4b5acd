# SPDX-License-Identifier: Apache-2.0
r"""Write a trained model for deployment, and prove that the file computes the same.

    longtail export --config-file STAGE2.yaml --weights STAGE2/model_final.pth \
        --output deployed.pth

A checkpoint of the baseline is written wherever that is exact: whatever reads detectron2's
checkpoints then runs the method at no cost. It is for

- second stages that are linear in the feature: cRT, LWS on a linear classifier, and those of
  projects that are folded (a calibration without confidence, on a linear classifier),
- post hoc methods (MODEL.POST_HOC.METHOD; the training set must be there, but for tau_norm),
- a semantic head with a branch that only training has, which is left out,
- baselines.

The last line says which config the checkpoint belongs to. Anything else (a confidence, or a cosine
classifier with a calibration or factors) becomes TorchScript: a file that needs neither this
project nor detectron2. It takes one image, (3, H, W) uint8, of the size and the order of channels
(INPUT.FORMAT) that the model is tested with, and gives a tuple of tensors:

- image classification: scores (K,),
- semantic segmentation: logits (K, H, W); windows (TEST.SEM_SEG.MODE slide) are the caller's,
- detectors: boxes (D, 4) in pixels of that image, scores (D,), classes (D,), and with masks their
  probabilities (D, 1, 28, 28) on a grid over each box.

For detectors import torchvision before torch.jit.load: it has two of the operators.

A checkpoint whose name ends in .safetensors is written as such. Semantic segmentation and image
classification have further formats, for batches (N, 3, H, W) of uint8:

- onnx: for onnxruntime; images of any size, where the model allows that,
- torch-export: for torch.export.load, likewise,
- bundle, bundle-onnx: a folder with one of these, the weights (safetensors), the config, and
  model.json with classes, colours and preprocessing; and run.py, which needs torch or onnxruntime,
  NumPy and Pillow.

Every file is read back and compared with the model on random images; the largest difference is
printed. If it is too large, nothing is written and the exit code is 1.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from longtail.utils.command_line import add_config_arguments, check_output_folder, command_parser
from longtail.utils.errors import ending_in_one_line

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from longtail.engine.inference.trained import TrainedModel

GRAPHS = ("onnx", "torch-export", "bundle", "bundle-onnx")
FORMATS = ("auto", "checkpoint", "torchscript", *GRAPHS)


def export(options: argparse.Namespace) -> None:
    """Write the file, and print what it is.

    Args:
        options: what :func:`build_parser` parsed.

    Raises:
        ValueError, OSError, KeyError: bad input; the message says what to do.
    """
    from longtail.config import load_config
    from longtail.engine import Trainer
    from longtail.engine.checkpoint import CLASS_NAMES
    from longtail.engine.deployment.export import check_kind, write_checkpoint, write_torchscript
    from longtail.engine.deployment.folding import baseline_config, changes, fold
    from longtail.engine.deployment.graphs import require_onnx
    from longtail.engine.deployment.post_hoc import APPLIED, changes_scores_alone
    from longtail.engine.inference.trained import load_trained, trained_config

    is_file = not options.format.startswith("bundle")
    if is_file and (os.path.isdir(options.output) or options.output.endswith(".pkl")):
        raise ValueError(
            f"--output {options.output} must name a file, and not end with .pkl, which stands for "
            "the model zoo's format"
        )
    if not is_file:
        check_output_folder(options.output)
    if "onnx" in options.format:
        require_onnx()
    cfg = trained_config(
        load_config(options.config_file, options.opts, imports=options.imports), options.weights
    )
    if changes_scores_alone(cfg):
        raise ValueError(
            f"MODEL.POST_HOC.METHOD {cfg.MODEL.POST_HOC.METHOD} maps scores, not weights: "
            "set it to '' to export, and give the file to whoever reads the scores"
        )
    trained = load_trained(cfg)
    model, loaded = trained.model, trained.notes
    check_kind(model)
    if options.format in GRAPHS:
        print(_write_graph(options, trained, test_size(cfg)))
        return
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
    if CLASS_NAMES in loaded:
        notes[CLASS_NAMES] = loaded[CLASS_NAMES]
    difference = write_checkpoint(options.output, model, folded, baseline, size, notes)
    print(f"{options.output}: checkpoint, largest relative difference {difference:.2g}")
    print(f"config: {shlex.join([options.config_file, *options.opts, *changes(cfg, deployed)])}")


def _write_graph(options: argparse.Namespace, trained: "TrainedModel", size: int) -> str:
    """Write one of the formats for batches; gives a line about it."""
    from longtail.engine.deployment.bundle import write_bundle
    from longtail.engine.deployment.graphs import write_exported_program, write_onnx

    output = options.output
    if options.format.startswith("bundle"):
        written = write_bundle(output, trained, size, onnx=options.format == "bundle-onnx")
    else:
        write = write_onnx if options.format == "onnx" else write_exported_program
        written = write(output, trained.model, size)
    return f"{output}: {options.format}, {written}"


def test_size(cfg: "CfgNode") -> int:
    """Height and width, in pixels, of a square image of the size of testing."""
    if cfg.MODEL.BACKBONE.NAME == "TimmClassificationBackbone":
        return cfg.INPUT.CLASSIFICATION.SIZE
    # 0 stands for images as they are.
    return cfg.INPUT.MIN_SIZE_TEST or 512


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("export", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="file to write, of a bundle the folder"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="auto (default): a checkpoint where that is exact, otherwise TorchScript; see above",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line():
        export(options)
