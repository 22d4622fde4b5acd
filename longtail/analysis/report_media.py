# SPDX-License-Identifier: Apache-2.0
"""What other commands left for a report: pictures, figures and the values behind them."""

import base64
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from longtail.analysis.report_drawing import Drawing
from longtail.analysis.report_figures import class_values_figure
from longtail.utils.errors import first_line

# Of a run: what is seen of its predictions, and what analyses drew.
PICTURES = "pictures"
FIGURES = "figures"
# Of one folder.
MOST_PICTURES = 12
# Pixels; a page is no wider.
WIDTH = 1400
_QUALITY = 82


class Picture(NamedTuple):
    """A picture of a page."""

    name: str
    source: str
    """A data URI."""
    width: int
    height: int


def read_pictures(folder: Path) -> list[Picture]:
    """Read the PNG files of a folder, the first by name, at most :data:`MOST_PICTURES`.

    Args:
        folder: which may be missing.

    Raises:
        ValueError: one is not a picture.
    """
    return [_picture(path) for path in sorted(folder.glob("*.png"))[:MOST_PICTURES]]


def read_class_figures(folder: Path, prefix: str) -> list[Drawing]:
    """Draw the values of classes in the JSON files of a folder against the classes' counts.

    Values of classes are a list of objects, each with a ``name``, one ``..._count`` and numbers,
    wherever it is in the file. Other files are left alone.

    Args:
        folder: which may be missing.
        prefix: of the names of the figures in the page.

    Raises:
        ValueError: a file is not JSON.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read ({first_line(error)}): make it again"
            ) from None
        for rows in _class_lists(content):
            unit = next(key for key in rows[0] if key.endswith("_count"))
            for column in rows[0]:
                known = [row for row in rows if _is_number(row[column])]
                if column != unit and known:
                    name, title = f"{prefix}-{len(found)}", f"{path.stem}: {column}"
                    found.append(class_values_figure(name, title, column, unit, known))
    return found


def _class_lists(value: Any) -> Iterator[list[dict[str, Any]]]:
    if isinstance(value, list) and value and all(map(_is_class, value)):
        keys = {tuple(row) for row in value}
        if len(keys) == 1:
            yield value
    elif isinstance(value, (dict, list)):
        items: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in items:
            yield from _class_lists(item)


def _is_class(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and any(key.endswith("_count") and isinstance(row[key], int) for key in row)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _picture(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    # The module raises many kinds on bytes that it did not expect.
    except Exception as error:
        raise ValueError(f"{path} is not a picture ({first_line(error)}): remove it") from None
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return Picture(path.stem, f"data:image/webp;base64,{text}", image.width, image.height)
