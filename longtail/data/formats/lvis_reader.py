# SPDX-License-Identifier: Apache-2.0
"""Reading LVIS's JSON: the one place that says whether a file is in the format.

A file is an object with the lists ``categories``, ``images`` and, unless it is a test set's,
``annotations``. Each check of an entry's value stands in this module, and runs where the caller
needs the entry's key: training needs masks but no area, evaluation the other way round.

H, W: height and width of an image.
"""

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from longtail.data.statistics.groups import LETTERS

Entry = dict[str, Any]

# What no use of a file can do without.
CATEGORY_KEYS = ("id",)
IMAGE_KEYS = ("id", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
_NUMBERS = frozenset({int, float, bool})


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
        category_keys: what every category needs besides ``id``. A ``frequency`` must be ``"r"``,
            ``"c"`` or ``"f"``.
        image_keys: what every image needs besides ``id``, ``height`` and ``width``, except in a
            test set.
        annotation_keys: what every annotation needs besides ``id``, ``image_id``, ``category_id``
            and ``bbox``. A ``segmentation`` must be what :func:`check_segmentation` accepts.
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
        categories = _by_id(content["categories"], (*CATEGORY_KEYS, *category_keys), "category")
        needed = (*IMAGE_KEYS, *(image_keys if tested else ()))
        images = _by_id(content["images"], needed, "image")
        if "frequency" in category_keys:
            _check_frequencies(categories.values())
        if tested:
            keys = (*ANNOTATION_KEYS, *annotation_keys)
            _check_annotations(content["annotations"], images, categories, keys)
    except (TypeError, ValueError) as error:
        # A TypeError is of ids that have no order, or no hash.
        raise ValueError(f"{path}: {error}") from None
    return LVISContent(
        path=path,
        categories=list(categories.values()),
        images=list(images.values()),
        annotations=content.get("annotations"),
    )


def check_segmentation(shape: object, height: int, width: int) -> None:
    """Check polygons or an RLE.

    Args:
        shape: at least one polygon ``[x1, y1, x2, y2, ...]`` (list or array) of at least 3
            points; or ``{"size": [H, W], "counts": text or list}``.
        height: H of the image.
        width: W of the image.

    Raises:
        ValueError: ``shape`` is neither, or an RLE of another size. The message goes on after the
            name of an annotation: "has ...".
    """
    if isinstance(shape, dict):
        size = [height, width]
        if not isinstance(shape.get("counts"), (str, list)) or shape.get("size") != size:
            raise ValueError(
                f"has an RLE without counts or of the size {shape.get('size')}, expected counts "
                f"and {size} (height, width), as its image"
            )
    elif not isinstance(shape, list) or not shape or not all(map(_is_polygon, shape)):
        raise ValueError(
            "has an invalid polygon: expected at least one list [x1, y1, x2, y2, ...] of 3 points "
            "or more, or an RLE"
        )


def compressed_rle(rle: Entry) -> Entry:
    """Compress the counts of an RLE, unless they are.

    Args:
        rle: what :func:`check_segmentation` accepts.

    Returns:
        ``{"size": [H, W], "counts": text or bytes}``.
    """
    return rle if isinstance(rle["counts"], str) else mask_util.frPyObjects(rle, *rle["size"])


def segmentation_rle(shape: object, height: int, width: int) -> Entry:
    """Check a segmentation and turn it into one compressed RLE.

    Args:
        shape: as for :func:`check_segmentation`.
        height: H of the image.
        width: W of the image.

    Returns:
        ``{"size": [H, W], "counts": text or bytes}`` of all polygons together.

    Raises:
        ValueError: as :func:`check_segmentation`.
    """
    check_segmentation(shape, height, width)
    if isinstance(shape, dict):
        return compressed_rle(shape)
    return mask_util.merge(mask_util.frPyObjects(shape, height, width))


def _load(path: str, remedy: str) -> Entry:
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {remedy}") from None
    except ValueError as error:
        raise ValueError(
            f"{path} is cut short or not JSON ({error}); make or fetch it again"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, expected the object of LVIS's format"
        )
    return content


def _by_id(entries: list[Entry], keys: Collection[str], what: str) -> dict[Any, Entry]:
    """Sort complete entries by their ids, which must differ."""
    found: dict[Any, Entry] = {}
    needed = frozenset(keys)
    for entry in entries:
        if not isinstance(entry, dict) or not needed <= entry.keys():
            raise _incomplete(entry, keys, what)
        if found.setdefault(entry["id"], entry) is not entry:
            raise ValueError(f"the id {entry['id']} is that of more than one {what}")
    return dict(sorted(found.items(), key=lambda item: item[0]))


def _check_frequencies(categories: Iterable[Entry]) -> None:
    for category in categories:
        if category["frequency"] not in LETTERS:
            raise ValueError(
                f"category {category['id']} has the frequency {category['frequency']!r}, expected "
                f"one of {', '.join(map(repr, LETTERS))}"
            )


def _check_annotations(
    annotations: list[Entry],
    images: dict[Any, Entry],
    categories: dict[Any, Entry],
    keys: Collection[str],
) -> None:
    seen = set()
    needed = frozenset(keys)
    for item in annotations:
        if not isinstance(item, dict) or not needed <= item.keys():
            raise _incomplete(item, keys, "annotation")
        if item["id"] in seen:
            raise ValueError(f"the id {item['id']} is that of more than one annotation")
        seen.add(item["id"])
        image = images.get(item["image_id"])
        if image is None or item["category_id"] not in categories:
            key = "image_id" if image is None else "category_id"
            raise ValueError(
                f"annotation {item['id']} has the unknown {key} {item[key]}: images, categories "
                "and annotations must come from one file"
            )
        if not _is_box(item["bbox"]):
            raise ValueError(
                f"annotation {item['id']} has the bbox {item['bbox']}, expected [x, y, w, h]"
            )
        if "segmentation" in needed:
            try:
                check_segmentation(item["segmentation"], image["height"], image["width"])
            except ValueError as error:
                raise ValueError(f"annotation {item['id']} {error}") from None


def _is_box(box: object) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
        return False
    return box[2] >= 0 and box[3] >= 0


def _is_polygon(part: object) -> bool:
    flat = isinstance(part, list) or (isinstance(part, np.ndarray) and part.ndim == 1)
    return flat and len(part) >= 6 and len(part) % 2 == 0


def _incomplete(entry: object, keys: Iterable[str], what: str) -> ValueError:
    if not isinstance(entry, dict):
        return ValueError(f"an entry in the list of {what} entries is not an object: {entry!r:.40}")
    missing = next(key for key in keys if key not in entry)
    return ValueError(f"{what} {entry.get('id', '(without id)')} has no {missing!r}")
