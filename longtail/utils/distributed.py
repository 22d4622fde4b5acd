# SPDX-License-Identifier: Apache-2.0
"""Processes of a distributed run that work together: one leads, the others lend a hand."""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from detectron2.utils import comm

S = TypeVar("S")
T = TypeVar("T")
# An error is sent as kind, text and traceback: not every exception survives pickling.
KINDS = (FileNotFoundError, OSError, ValueError, KeyError, ImportError, FloatingPointError)
RESULT = "result"
ERROR = "error"
WORK = "work"
# What this process does at the moment: it calls from_main_process's function while the others wait
# for its messages, or it works on its share and nobody listens.
LEADS = "leads"
WORKS = "works"
_doing: str | None = None


class ElsewhereError(Exception):
    """The cause of an error that another process has sent; its text is the traceback there."""


def from_main_process(function: Callable[[], T]) -> T:
    """Call ``function`` in the main process, and share its result or its error with the others.

    While they wait, they take their share of what ``function`` gives :func:`in_all_processes`.
    Within another call, or within such a share, it calls ``function`` in this process alone.

    Args:
        function: without arguments; its result can be pickled.

    Raises:
        Exception: what ``function`` raises; in the other processes of the same kind, if it is one
            of :data:`KINDS`, or else a RuntimeError.
    """
    if comm.get_world_size() == 1 or _doing is not None:
        return function()
    return _lead(function) if comm.is_main_process() else _help()


def in_all_processes(function: Callable[[Sequence[S]], list[T]], items: Sequence[S]) -> list[T]:
    """Compute ``function(items)`` in all processes, each a part of the items.

    A file that another process does not find may be on the main machine's disk alone. The main
    process then does that process's part again, and fails if the file is missing here, too.

    Args:
        function: from some of the items to a result for each; it can be pickled.
        items: all of them.

    Returns:
        The results in the order of the items, as one process computes them alone; that is what
        happens outside of :func:`from_main_process`, whose others would wait, and within
        ``function`` itself, as the others are at work.

    Raises:
        Exception: what ``function`` raises in any process, once all have finished.
    """
    if _doing != LEADS:
        return function(items)
    size = comm.get_world_size()
    _send(WORK, function, items)
    own = _outcome(function, items[::size])
    parts: list[Any] = [None] * size
    # Before any error: the others are about to send.
    dist.gather_object(own[:3], parts)
    results: list[Any] = [None] * len(items)
    for rank, (kind, value, trace) in enumerate(parts):
        if kind == RESULT:
            part = value
        elif rank and kind is FileNotFoundError:
            with _while(WORKS):
                part = function(items[rank::size])
        else:
            raise own[3] if rank == 0 else kind(value) from ElsewhereError(trace)
        results[rank::size] = part
    return results


@contextlib.contextmanager
def _while(doing: str) -> Iterator[None]:
    global _doing
    before, _doing = _doing, doing
    try:
        yield
    finally:
        _doing = before


def _lead(function: Callable[[], T]) -> T:
    kind, value, trace, failure = _outcome(function, doing=LEADS)
    _send(RESULT if kind == RESULT else ERROR, kind, value, trace)
    if failure is not None:
        raise failure
    return value


def _help() -> Any:
    while True:
        message: list[Any] = [None]
        dist.broadcast_object_list(message, src=0)
        what, *content = message[0]
        if what == WORK:
            function, items = content
            share = items[comm.get_rank() :: comm.get_world_size()]
            dist.gather_object(_outcome(function, share)[:3])
            continue
        kind, value, trace = content
        if what == RESULT:
            return value
        raise kind(value) from ElsewhereError(trace)


def _send(*message: Any) -> None:
    dist.broadcast_object_list([message], src=0)


def _outcome(
    function: Callable[..., Any], *arguments: Any, doing: str = WORKS
) -> tuple[Any, Any, str, Exception | None]:
    """``(RESULT, value, "", None)``, or the kind, text, traceback and object of the error."""
    try:
        with _while(doing):
            return RESULT, function(*arguments), "", None
    except Exception as error:
        kind = next((kind for kind in KINDS if isinstance(error, kind)), RuntimeError)
        # The text of a KeyError is the quoted form of its message.
        text = str(error.args[0] if kind is KeyError and error.args else error)
        return kind, text, "".join(traceback.format_exception(error)), error
