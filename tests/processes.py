"""Running a test's function in two processes that talk through gloo."""

import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT = timedelta(seconds=60)


def run_in_two_processes(function: Callable[[int, Path], None], folder: Path) -> None:
    """Call ``function(rank, folder)`` with rank 0 and 1; an error in one fails the test.

    Args:
        function: at the top of a module; what it finds out it writes into ``folder``.
        folder: an empty folder.
    """
    mp.spawn(_process, args=(function, folder), nprocs=2)


def _process(rank: int, function: Callable[[int, Path], None], folder: Path) -> None:
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
