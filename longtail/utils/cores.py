# SPDX-License-Identifier: Apache-2.0
"""The number of processors that this process may use."""

import os


def available_cores() -> int:
    """Processors that the process may run on, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
