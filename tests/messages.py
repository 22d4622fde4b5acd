# SPDX-License-Identifier: Apache-2.0
"""What an error has to say, whatever its words: the key, what was given, the key of the remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def raises_naming(
    expected: type[BaseException] | tuple[type[BaseException], ...], *parts: str
) -> Iterator[pytest.ExceptionInfo]:
    """Expect an error whose message is one line that has every part, see :func:`assert_names`.

    Args:
        expected: type of the error.
        parts: keys, values and names, at least one.
    """
    with pytest.raises(expected) as info:
        yield info
    assert_names(str(info.value), *parts)


def assert_names(message: str, *parts: str) -> None:
    """Assert that a message is one line that has every part as a whole.

    A part of another key, number or name does not count: ``MODEL.TIMM.NORM`` is not in
    ``MODEL.TIMM.NORM.EPS``, nor are ``NORM`` in ``MODEL.TIMM.NORM`` and ``7`` in ``17`` or ``0.7``.

    Args:
        message: of an error.
        parts: keys, values and names, at least one.
    """
    assert parts, "say what the message has to name"
    assert "\n" not in message, message
    for part in parts:
        assert stands_in(part, message), f"{part} is not named in: {message}"


def stands_in(part: str, message: str) -> bool:
    """Whether a part is in a message, and not in the middle of a longer key, number or name."""
    start = r"(?<!\w)(?<!\w\.)" if re.match(r"\w", part) else ""
    end = r"(?!\w|\.\w)" if re.search(r"\w$", part) else ""
    return re.search(start + re.escape(part) + end, message) is not None
