# SPDX-License-Identifier: Apache-2.0
"""Processes of a distributed run that work together: one leads, the others lend a hand."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from detectron2.utils import comm

S = TypeVar("S")
T = TypeVar("T")
# An error is sent as a kind and a text: not every exception survives pickling.
KINDS = (FileNotFoundError, OSError, ValueError)
RESULT = "result"
ERROR = "error"
WORK = "work"
# Whether the others wait in from_main_process for what this process has to say.
_others_wait = False


def from_main_process(function: Callable[[], T]) -> T:
    """Call ``function`` in the main process, and share its result or its error with the others.

    While they wait, they take their share of what ``function`` gives :func:`in_all_processes`.

    Args:
        function: without arguments; its result can be pickled.

    Raises:
        Exception: what ``function`` raises; in the other processes of the same kind, if it is one
            of :data:`KINDS`, or else a RuntimeError.
    """
    # Within another call the others wait for that one's result.
    if comm.get_world_size() == 1 or _others_wait:
        return function()
    return _lead(function) if comm.is_main_process() else _help()


def in_all_processes(function: Callable[[Sequence[S]], list[T]], items: Sequence[S]) -> list[T]:
    """Compute ``function(items)`` in all processes, each a part of the items.

    A process that does not find a file is on a machine with other disks: the main process does its
    part, too, and says if the file is missing there as well.

    Args:
        function: from some of the items to a result for each; it can be pickled.
        items: all of them.

    Returns:
        The results in the order of the items, as one process computes them alone; that is what
        happens outside of :func:`from_main_process`, whose others would wait.

    Raises:
        Exception: what ``function`` raises in any process, once all have finished.
    """
    if not _others_wait:
        return function(items)
    size = comm.get_world_size()
    _send(WORK, function, items)
    own = _outcome(lambda: function(items[::size]))
    parts: list[Any] = [None] * size
    # Before any error: the others are about to send.
    dist.gather_object(own[:2], parts)
    results: list[Any] = [None] * len(items)
    for rank, (kind, value) in enumerate(parts):
        if kind == RESULT:
            part = value
        elif rank and kind is FileNotFoundError:
            part = function(items[rank::size])
        else:
            raise own[2] if rank == 0 else kind(value)
        results[rank::size] = part
    return results


def _lead(function: Callable[[], T]) -> T:
    global _others_wait
    _others_wait = True
    try:
        kind, value, failure = _outcome(function)
    finally:
        _others_wait = False
    _send(RESULT if kind == RESULT else ERROR, kind, value)
    if failure is not None:
        raise failure
    return value


def _help() -> Any:
    while True:
        message: list[Any] = [None]
        dist.broadcast_object_list(message, src=0)
        what, first, second = message[0]
        if what == RESULT:
            return second
        if what == ERROR:
            raise first(second)
        share = second[comm.get_rank() :: comm.get_world_size()]
        dist.gather_object(_outcome(lambda work=first, items=share: work(items))[:2])


def _send(*message: Any) -> None:
    dist.broadcast_object_list([message], src=0)


def _outcome(function: Callable[[], Any]) -> tuple[Any, Any, Exception | None]:
    """``(RESULT, value, None)``, or the kind, text and object of the error."""
    try:
        return RESULT, function(), None
    except Exception as error:
        kind = next((kind for kind in KINDS if isinstance(error, kind)), RuntimeError)
        return kind, str(error), error
