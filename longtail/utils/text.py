# SPDX-License-Identifier: Apache-2.0
"""Text from strangers and for programs of others: byte order marks, CSV cells, names of files."""

import codecs
import csv
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# What a spreadsheet takes for a formula.
_FORMULA = ("=", "+", "-", "@")
# Tabs and line breaks are among these.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What separates folders, or is forbidden in names, on some system.
_UNSAFE = re.compile(r'[/\\:*?"<>|%\x00-\x1f\x7f]|^\.')


def read_text(path: str | os.PathLike) -> str:
    """Read a text file without its byte order mark.

    UTF-8, or UTF-16 with a mark, as some editors and shells of Windows write it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text in UTF-8; the message starts with the path.
    """
    content = Path(path).read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}): save it as UTF-8") from None


def write_csv(file: IO[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as CSV; text that a spreadsheet would run as a formula starts with ``'``.

    NaN is an empty cell.

    Args:
        file: open for writing text.
        columns: names of the columns, in their order.
        rows: a value for each column.
    """
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writerow({column: _cell(column) for column in columns})
    for row in rows:
        writer.writerow({column: _cell(value) for column, value in row.items()})


def as_file_name(name: str) -> str:
    """Escape a name of anything so that it is that of a file in the very folder it is put into.

    Names that differ stay different; letters of all languages, digits and spaces stay as they are.

    Args:
        name: such as that of a class or of a data set.
    """
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name) or "%"


def without_control(text: str) -> str:
    """Replace control characters, which move a terminal's cursor and are forbidden in SVG."""
    return _CONTROL.sub(" ", text)


def markdown_cell(text: str) -> str:
    """Escape a text so that a cell of a table in Markdown shows it as it is."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return without_control(text)


def _cell(value: object) -> object:
    if isinstance(value, float) and math.isnan(value):
        return ""
    if not isinstance(value, str):
        return value
    text = without_control(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
