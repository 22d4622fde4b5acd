# SPDX-License-Identifier: Apache-2.0
"""Compute the frozen RoI features of a DisAlign detector once, to train its calibration on them.

    longtail cache-roi-features --config-file STAGE2.yaml --output DIR --epochs 2
    longtail train --config-file STAGE2.yaml MODEL.DISALIGN.ROI_FEATURE_CACHE DIR
    torchrun --nproc_per_node 2 -m longtail cache-roi-features ... (a folder that all share)

The config and MODEL.WEIGHTS are those of the second stage. Images are augmented and RoIs sampled
as in training, once in every epoch. An interrupted cache is continued by the same command, a
complete one is extended by a larger --epochs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from longtail.utils.command_line import add_config_arguments, command_parser
from longtail.utils.errors import ending_in_one_line


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("cache-roi-features", __doc__)
    add_config_arguments(parser, "a second stage")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the cache")
    parser.add_argument(
        "--epochs",
        type=int,
        default=1,
        metavar="N",
        help="how often every image is augmented, sampled and cached (default: 1)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = build_parser().parse_args(arguments)
    with ending_in_one_line(interrupted="interrupted: the same command continues this cache"):
        from longtail.engine.launch import run_in_each_process

        run_in_each_process(_process, options)


def _process(options: argparse.Namespace) -> None:
    from disalign.roi_cache_making import make_cache
    from longtail.config import load_config

    cfg = load_config(options.config_file, options.opts, imports=options.imports)
    make_cache(cfg, Path(options.output), options.epochs)
