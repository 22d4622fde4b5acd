# SPDX-License-Identifier: Apache-2.0
"""Errors, said in one line."""

import contextlib
import os
import re
import select
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from longtail.utils.io import atomic_write

# Bad configs, data, weights or options, a training that diverges, a package that is missing.
INPUT_ERRORS = (ValueError, OSError, KeyError, FloatingPointError, ImportError)
INTERRUPTED = 130  # 128 + SIGINT
UNREAD = 141  # 128 + SIGPIPE
RESUMABLE = 143  # 128 + SIGTERM: the run can be continued
# More of a message is a page of hints.
LONGEST = 500
# What torch and Python say of a machine at its limits, and what helps; {} is what they say.
EXPLAINED = (
    (
        r"out of memory|can't allocate memory|std::bad_alloc|MemoryError",
        "{}: there is too little memory; lower SOLVER.IMS_PER_BATCH, the size of images, or "
        "DATALOADER.NUM_WORKERS",
    ),
    (
        r"DataLoader worker .*(exited unexpectedly|killed by signal)|unable to mmap|shared memory",
        "{}: a process that reads data was lost, often for lack of memory or of shared memory; "
        "lower DATALOADER.NUM_WORKERS (0 reads in the main process)",
    ),
    (
        r"EADDRINUSE|address already in use",
        "{}: the port is in use; name another one, or let torchrun --standalone choose",
    ),
    (
        r"Connection (closed by|reset by) peer|failed to recv|Broken pipe",
        "{}: another process of this run has ended; see what it says",
    ),
)


class StoppedError(OSError):
    """A training that cannot go on now and can be continued later: exit code 143."""


def first_line(error: Exception) -> str:
    """The first line of a message, or the type of an error without one.

    Other libraries add hints of many lines.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """The message of an error, without line breaks, quotes and tracebacks of other processes."""
    # The text of a KeyError is the quoted form of its message.
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if "Original Traceback" in message:
        # An error of a data loader's worker: its traceback ends with type and message.
        message = message.splitlines()[-1].partition(": ")[2]
    return " ".join(message.split()) or type(error).__name__


def is_input_error(error: BaseException) -> bool:
    """Whether an error is one of bad input, whose message says what to do, and not of the code."""
    # A mapping's own KeyError says nothing but the key.
    bare = isinstance(error, KeyError) and " " not in one_line(error)
    return isinstance(error, INPUT_ERRORS) and not bare


def describe(error: BaseException) -> str:
    """What an error says, in one line that also makes sense if nobody has foreseen it."""
    message = one_line(error)
    if is_input_error(error):
        return message
    name = type(error).__name__
    text = name if message == name else f"{name}: {_shortened(error)}"
    explanation = _explanation(error)
    return explanation.format(text) if explanation else f"{text} (unexpected)"


def is_foreseen(error: BaseException) -> bool:
    """Whether an error is of bad input or of a machine at its limits, and not of the code."""
    return is_input_error(error) or _explanation(error) is not None


def _explanation(error: BaseException) -> str | None:
    said = f"{type(error).__name__} {one_line(error)}"
    for pattern, explanation in EXPLAINED:
        if re.search(pattern, said, re.IGNORECASE):
            return explanation
    return None


def _shortened(error: BaseException) -> str:
    text = one_line(error) if isinstance(error, KeyError) else first_line(error)
    if "Caught " in text:
        text = one_line(error)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def keep_traceback(error: BaseException, folder: str | os.PathLike, name: str) -> Path | None:
    """Write an error's traceback where whoever debugs finds it.

    Args:
        error: with its traceback.
        folder: where output goes; the temporary folder takes its place if there is none, or if it
            cannot be written.
        name: of the file.

    Returns:
        The file; None if nothing can be written.
    """
    text = "".join(traceback.format_exception(error))
    own = Path(tempfile.gettempdir()) / f"longtail_{os.getpid()}_{name}"
    for path in [*([Path(folder) / name] if os.path.isdir(folder or "") else []), own]:
        with contextlib.suppress(OSError), atomic_write(path) as file:
            file.write(text)
            return path
    return None


def ended(
    error: BaseException,
    folder: str | os.PathLike = "",
    *,
    name: str = "traceback.txt",
    always: bool = False,
    interrupted: str = "interrupted",
) -> SystemExit:
    """What ends the program after an error: one line and an exit code.

    Args:
        error: what was raised; its code is 1, of a :class:`StoppedError` 143, of Ctrl-C 130, and
            141 without a line where nobody reads the output any more.
        folder: for the traceback, see :func:`keep_traceback`. Bad input leaves none.
        name: of the traceback's file.
        always: keep that of bad input as well, if the folder exists.
        interrupted: the line after Ctrl-C.
    """
    if isinstance(error, KeyboardInterrupt):
        # Not in the line that the terminal shows ^C in, or a progress bar.
        print(f"\n{interrupted}", file=sys.stderr, flush=True)
        return SystemExit(INTERRUPTED)
    if isinstance(error, BrokenPipeError) and _is_unread():
        return SystemExit(UNREAD)
    where = ""
    if not is_input_error(error) or (always and os.path.isdir(folder)):
        path = keep_traceback(error, folder, name)
        where = f" (details: {path})" if path else " (the traceback could not be written)"
    line = f"error: {describe(error)}{where}"
    if isinstance(error, StoppedError):
        print(line, file=sys.stderr, flush=True)
        return SystemExit(RESUMABLE)
    return SystemExit(line)


def _is_unread() -> bool:
    """Tell whether who reads the output, such as ``head``, has seen enough; then it is dropped."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file, as in tests, or closed
        return False
    # Not by writing: nothing is left to write where the text was longer than the buffer.
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # The interpreter would complain at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True


@contextlib.contextmanager
def ending_in_one_line(
    folder: str | os.PathLike = "", *, interrupted: str = "interrupted"
) -> Iterator[None]:
    """End the program with one line, whatever goes wrong, see :func:`ended`.

    Args:
        folder: where output goes, for the traceback of an error that nobody has foreseen.
        interrupted: the line after Ctrl-C.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        raise ended(error, folder, interrupted=interrupted) from None
