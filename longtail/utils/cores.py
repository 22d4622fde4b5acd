# SPDX-License-Identifier: Apache-2.0
"""The number of processors that this process may use."""

import os


def available_cores() -> int:
    """Processors that the process may run on, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_process() -> int:
    """This process's part of the processors, at least one.

    torchrun's processes of a machine share them; srun gives each task its own.
    """
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
