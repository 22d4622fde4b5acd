# SPDX-License-Identifier: Apache-2.0
"""Running a test's function in two processes that talk through gloo; and interrupting a process."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog

import longtail.engine  # noqa: F401  (registers data sets)

# Before any test has registered others.
OWN_DATA_SETS = frozenset(DatasetCatalog.list())
LIMIT = timedelta(seconds=60)


def heed_interrupts() -> None:
    """Let a new process (``preexec_fn``) end by Ctrl-C.

    Shells let what they start in the background ignore it, which is inherited.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_in_two_processes(function: Callable[[int, Path], None], folder: Path) -> None:
    """Call ``function(rank, folder)`` with rank 0 and 1; an error in one fails the test.

    Args:
        function: at the top of a module; what it finds out it writes into ``folder``. The test's
            data sets are not registered there.
        folder: an empty folder.
    """
    # A fork has everything imported, which saves ten seconds; but CUDA does not survive it.
    forks = sys.platform == "linux" and not torch.cuda.is_available()
    method = "fork" if forks else "spawn"
    mp.start_processes(_process, args=(function, folder), nprocs=2, start_method=method)


def _process(rank: int, function: Callable[[int, Path], None], folder: Path) -> None:
    # What a new process would not have, or a fork has lost: data sets, and OpenMP's threads.
    for name in set(DatasetCatalog.list()) - OWN_DATA_SETS:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    torch.set_num_threads(1)
    store = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=LIMIT)
    try:
        function(rank, folder)
        dist.barrier()  # nobody leaves while the other still needs it
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Without destructors: gloo's joins its thread while it holds Python's lock, for which that
    # thread may be waiting to release a tensor.
    os._exit(0)
