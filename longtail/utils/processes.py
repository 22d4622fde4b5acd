# SPDX-License-Identifier: Apache-2.0
"""Work in several processes."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def map_jobs(
    function: Callable[[Any], Any],
    jobs: list,
    num_workers: int,
    *,
    chunk_size: int = 8,
    initializer: Callable[..., None] | None = None,
    arguments: tuple = (),
) -> Iterator[Any]:
    """Yield ``function(job)`` in order, from ``num_workers`` processes if that is above 1.

    Args:
        function: of a module, so that other processes find it.
        jobs: what it is called with.
        num_workers: processes; with one, everything is done in this one.
        chunk_size: jobs that are sent to a process together.
        initializer: called once in each process.
        arguments: of the initializer.
    """
    if num_workers <= 1:
        yield from map(function, jobs)
        return
    # Forking a process that already runs OpenCV's or torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer, arguments) as pool:
        try:
            yield from pool.map(function, jobs, chunksize=chunk_size)
        finally:
            pool.shutdown(cancel_futures=True)
