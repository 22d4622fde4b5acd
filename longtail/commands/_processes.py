# SPDX-License-Identifier: Apache-2.0
"""Commands that share their work among the processes that torchrun or srun have started."""

import argparse
import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_once(main: Callable[[argparse.Namespace], T], options: argparse.Namespace) -> T:
    """Run ``main(options)`` here, or in the main process of the job with the help of the others.

    Args:
        main: the work of a command.
        options: of the command.

    Returns:
        What ``main`` gives, in all processes.

    Raises:
        Exception: what ``main`` raises, in the main process.
        SystemExit: in the others, then.
    """
    # The engine takes a second to import, and most are alone.
    if not {"TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"} & os.environ.keys():
        return main(options)
    from longtail.engine.launch import run_in_main_process

    return run_in_main_process(main, options)
