# SPDX-License-Identifier: Apache-2.0
"""Reading LVIS's JSON: the one place that says whether a file is in the format.

A file is an object with the lists ``categories``, ``images`` and, unless it is a test set's,
``annotations``. The checks of entries are :mod:`~longtail.data.formats.lvis_checks`'; those of a
key run where the caller needs it: training needs masks but no area, evaluation the other way round.
"""

import gc
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass

from longtail.data.formats.lvis_checks import (
    check_annotations,
    checked_categories,
    checked_images,
)
from longtail.data.formats.lvis_shapes import Entry


@dataclass(frozen=True)
class LVISContent:
    """The entries of a file in LVIS's format, as they stand there.

    Attributes:
        path: the file.
        categories: in the order of their ids, each id once.
        images: in the order of their ids, each id once.
        annotations: in the order of the file, each of an image and a category that the file has;
            None for a test set, whose annotations are kept back.
    """

    path: str
    categories: list[Entry]
    images: list[Entry]
    annotations: list[Entry] | None


def read_lvis_json(
    path: str | os.PathLike,
    *,
    category_keys: Iterable[str] = (),
    image_keys: Iterable[str] = (),
    annotation_keys: Iterable[str] = (),
    remedy: str = "correct the path with which the data set was registered",
) -> LVISContent:
    """Read a file in LVIS's format and check it.

    Args:
        path: the file.
        category_keys: what every category needs besides ``id``.
        image_keys: what every image needs besides ``id``, ``height`` and ``width``, except in a
            test set.
        annotation_keys: what every annotation needs besides ``id``, ``image_id``, ``category_id``
            and ``bbox``, see :func:`~longtail.data.formats.lvis_checks.check_annotations`.
        remedy: what to do if there is no such file, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short or not JSON; an entry lacks a key, has an id that another has,
            or an invalid value; or an annotation is of an unknown image or category. The message
            starts with the path.
    """
    path = os.fspath(path)
    content = _load(path, remedy)
    try:
        tested = "annotations" in content
        for key in ("categories", "images", *(["annotations"] if tested else [])):
            if not isinstance(content.get(key), list):
                raise ValueError(f"no list under the key {key!r}: the file is not in LVIS's format")
        categories = checked_categories(content["categories"], tuple(category_keys))
        needed = tuple(image_keys) if tested else ()
        images = checked_images(content["images"], needed, categories)
        if tested:
            check_annotations(content["annotations"], images, categories, tuple(annotation_keys))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return LVISContent(
        path=path,
        categories=list(categories.values()),
        images=list(images.values()),
        annotations=content.get("annotations"),
    )


def _load(path: str, remedy: str) -> Entry:
    # Millions of lists and no garbage: looking for some takes as long as reading.
    collects = gc.isenabled()
    gc.disable()
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is cut short or not JSON ({error}); make or fetch it again"
        ) from None
    finally:
        if collects:
            gc.enable()
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, expected the object of LVIS's format"
        )
    return content
