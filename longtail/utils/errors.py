# SPDX-License-Identifier: Apache-2.0
"""Errors of bad input, said in one line."""

import contextlib
from collections.abc import Iterator

# Bad configs, data, weights or options, or a training that diverges.
INPUT_ERRORS = (ValueError, OSError, KeyError, FloatingPointError)


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


@contextlib.contextmanager
def ending_in_one_line() -> Iterator[None]:
    """End the program with one line and exit code 1 where input is bad."""
    try:
        yield
    except INPUT_ERRORS as error:
        raise SystemExit(f"error: {one_line(error)}") from None
