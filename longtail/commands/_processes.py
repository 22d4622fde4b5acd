# SPDX-License-Identifier: Apache-2.0
"""Commands that share their work among the processes that torchrun or srun have started."""

import argparse
import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_once(main: Callable[[argparse.Namespace], T], options: argparse.Namespace) -> T:
    """Run a command as :func:`~longtail.engine.launch.run_in_main_process` does."""
    # The engine takes a second to import, and most are alone.
    if not {"TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"} & os.environ.keys():
        return main(options)
    from longtail.engine.launch import run_in_main_process

    return run_in_main_process(main, options)
