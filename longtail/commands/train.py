# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate the model of a config.

longtail train --config-file ADE20K/deeplabv3plus_R_50c_160k.yaml
longtail train --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc_per_node 2 -m longtail train --config-file ...
"""

import argparse
import os
import sys
from collections.abc import Sequence

from longtail.utils.command_line import add_import_argument, command_parser
from longtail.utils.errors import ending_in_one_line


def build_parser() -> argparse.ArgumentParser:
    """Make the command line: detectron2's, and what to do with a run that is in OUTPUT_DIR.

    The options are those of detectron2's ``default_argument_parser``, which a test compares:
    importing it would take seconds.
    """
    summary, _, examples = __doc__.partition("\n\n")
    parser = command_parser("train", summary)
    parser.epilog = f"Examples:\n\n{examples}"
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in OUTPUT_DIR, if there is one",
    )
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="the rank of this machine (unique per machine)"
    )
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{_port()}",
        help="where the processes of several machines meet (default: a port of this user)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the run in OUTPUT_DIR; without it and --resume that is an error",
    )
    add_import_argument(parser)
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="replaced config values, after all options",
    )
    return parser


def _port() -> int:
    """Return detectron2's port, the same one for all runs of a user: who left processes is told."""
    user = os.getuid() if sys.platform != "win32" else 1
    return 2**15 + 2**14 + hash(user) % 2**14


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: start the processes.

    Args:
        arguments: of the command line, by default those of the process.
    """
    args = build_parser().parse_args(arguments)
    with ending_in_one_line():
        from longtail.engine.run import start

        start(args)
