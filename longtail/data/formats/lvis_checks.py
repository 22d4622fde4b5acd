# SPDX-License-Identifier: Apache-2.0
"""The checks of the entries of a file in LVIS's format, which is data from strangers.

The lists of annotations are long: each check looks at a column of all entries, and at them one by
one only to name the first that is wrong.

H, W: height and width of an image.
"""

from collections.abc import Collection, Mapping
from itertools import chain

import numpy as np

from longtail.data.formats.lvis_shapes import (
    REACH,
    Entry,
    are_plain_polygons,
    check_segmentation,
    has_segmentation,
)
from longtail.data.statistics.groups import LETTERS

# What no use of a file can do without.
CATEGORY_KEYS = ("id",)
IMAGE_KEYS = ("id", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")
# Among the keys of annotations: segmentations may be missing, but not wrong.
SHAPES = "segmentation, if any"
# Ids become int64. A side of an image, and its area, which pycocotools counts in 32 bits.
MAX_ID = 2**63 - 1
MAX_SIDE = 2**16
MAX_AREA = 2**31 - 1
# Polygons that are checked at once: their numbers take some 10 MB.
BLOCK = 8192
_NUMBERS = frozenset({int, float})


def checked_categories(entries: list[Entry], keys: Collection[str]) -> dict[int, Entry]:
    """Check categories and sort them by their ids.

    Args:
        entries: of the file.
        keys: what each needs besides ``id``. A ``name`` must be text that no other has, a
            ``frequency`` ``"r"``, ``"c"`` or ``"f"``, wherever there is one.

    Returns:
        The categories by id, in ascending order.

    Raises:
        ValueError: an entry is not that.
    """
    found = checked_entries(entries, (*CATEGORY_KEYS, *keys), "category")
    owner: dict[str, int] = {}
    for number, category in found.items():
        name = category.get("name", f"category {number}")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"category {number} has the name {name!r:.40}, expected text")
        if owner.setdefault(name, number) != number:
            raise ValueError(f"the name {name!r} is that of the categories {owner[name]}, {number}")
        if "frequency" in category and category["frequency"] not in tuple(LETTERS):
            raise ValueError(
                f"category {number} has the frequency {category['frequency']!r:.40}, expected one "
                f"of {', '.join(map(repr, LETTERS))}"
            )
    return found


def checked_images(
    entries: list[Entry], keys: Collection[str], categories: Mapping[int, Entry]
) -> dict[int, Entry]:
    """Check images and sort them by their ids.

    Args:
        entries: of the file.
        keys: what each needs besides ``id``, ``height`` and ``width``.
        categories: by id; an image's ``neg_category_ids`` and ``not_exhaustive_category_ids``,
            wherever there are such lists, may name no others.

    Returns:
        The images by id, in ascending order.

    Raises:
        ValueError: an entry is not that, or has an impossible size.
    """
    found = checked_entries(entries, (*IMAGE_KEYS, *keys), "image")
    for number, image in found.items():
        for key in ("height", "width"):
            side = image[key]
            if type(side) is not int or not 0 < side <= MAX_SIDE:
                raise ValueError(
                    f"image {number} has the {key} {side!r:.40}, expected an integer from 1 to "
                    f"{MAX_SIDE}"
                )
        if image["height"] * image["width"] > MAX_AREA:
            raise ValueError(
                f"image {number} has {image['height']} x {image['width']} pixels, expected at "
                f"most {MAX_AREA}"
            )
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if key in image:
                _check_category_list(image[key], f"image {number}", key, categories)
    return found


def check_annotations(
    entries: list[Entry],
    images: Mapping[int, Entry],
    categories: Mapping[int, Entry],
    keys: Collection[str],
) -> None:
    """Check annotations.

    Args:
        entries: of the file.
        images: by id.
        categories: by id.
        keys: what each needs besides ``id``, ``image_id``, ``category_id`` and ``bbox``. An
            ``area`` must be >= 0 wherever there is one. A ``segmentation`` must be what
            :func:`~longtail.data.formats.lvis_shapes.check_segmentation` accepts; with
            :data:`SHAPES` among the keys also where only some have one.

    Raises:
        ValueError: an entry is not that, or of an unknown image or category, or its box is not
            finite, has a negative side, or lies further from the origin than twice the image's
            longer side.
    """
    needed = {*ANNOTATION_KEYS, *keys} - {SHAPES}
    check_complete(entries, needed, "annotation")
    _check_ids(entries, "annotation")
    for key, known in (("image_id", images), ("category_id", categories)):
        column = [item[key] for item in entries]
        # One by one only if that fails: most of the time goes into loops.
        if not ({int}.issuperset(map(type, column)) and known.keys() >= set(column)):
            _name_unknown(entries, key, known)
    for item in entries:
        if item.get("iscrowd", 0) not in (0, 1):
            raise ValueError(
                f"annotation {item['id']} has the iscrowd {item['iscrowd']!r:.40}, expected 0 or 1"
            )
    reach = {
        number: REACH * max(image["height"], image["width"]) for number, image in images.items()
    }
    limits = np.array([reach[item["image_id"]] for item in entries], np.float64)
    _check_boxes(entries, limits)
    _check_areas([item for item in entries if "area" in item])
    if {"segmentation", SHAPES} & {*keys}:
        if "segmentation" in needed and not all(map(has_segmentation, entries)):
            item = next(item for item in entries if not has_segmentation(item))
            raise ValueError(f"annotation {item['id']} has no polygon and no RLE")
        _check_shapes(entries, images, limits)


def category_names(category: Entry) -> tuple[str, ...]:
    """What a category may be called: its name, and its synonyms; nothing if it has no name."""
    if "name" not in category:
        return ()
    synonyms = category.get("synonyms")
    return (category["name"], *(synonyms if isinstance(synonyms, list) else ()))


def checked_entries(entries: list[Entry], keys: Collection[str], what: str) -> dict[int, Entry]:
    """Check that entries are complete, and sort them by their ids.

    Args:
        entries: of the file.
        keys: what each needs, ``id`` among them.
        what: they are, for the message.

    Raises:
        ValueError: an entry is not an object, lacks a key, or has an id that is not an integer of
            64 bits or that another has.
    """
    check_complete(entries, keys, what)
    _check_ids(entries, what)
    return {entry["id"]: entry for entry in sorted(entries, key=lambda entry: entry["id"])}


def check_complete(entries: list[Entry], keys: Collection[str], what: str) -> None:
    """Refuse entries that are not objects, or lack a key; arguments as :func:`checked_entries`."""
    needed = frozenset(keys)
    for entry in entries:
        if not isinstance(entry, dict):
            raise ValueError(
                f"an entry in the list of {what} entries is not an object: {entry!r:.40}"
            )
        if not needed <= entry.keys():
            missing = next(key for key in keys if key not in entry)
            number = f"{entry['id']!r:.40}" if "id" in entry else "(without id)"
            raise ValueError(f"{what} {number} has no {missing!r}")


def _check_ids(entries: list[Entry], what: str) -> None:
    ids = [entry["id"] for entry in entries]
    if not {int}.issuperset(map(type, ids)) or max(map(abs, ids), default=0) > MAX_ID:
        wrong = next(i for i in ids if type(i) is not int or abs(i) > MAX_ID)
        raise ValueError(f"the {what} id {wrong!r:.40} is not an integer of 64 bits")
    if len(set(ids)) != len(ids):
        seen: set[int] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))
        raise ValueError(f"the id {twice} is that of more than one {what}")


def _check_category_list(ids: object, owner: str, key: str, known: Mapping[int, Entry]) -> None:
    if not isinstance(ids, list) or not {int}.issuperset(map(type, ids)):
        raise ValueError(f"{owner} has the {key} {ids!r:.40}, expected a list of category ids")
    if not known.keys() >= set(ids):
        wrong = next(i for i in ids if i not in known)
        raise ValueError(
            f"{owner} has the unknown category {wrong} among its {key}: take it out, or add the "
            "category"
        )


def _name_unknown(entries: list[Entry], key: str, known: Mapping[int, Entry]) -> None:
    for item in entries:
        value = item[key]
        if type(value) is not int or value not in known:
            raise ValueError(
                f"annotation {item['id']} has the unknown {key} {value!r:.40}: images, categories "
                "and annotations must come from one file"
            )


def _check_boxes(entries: list[Entry], limits: np.ndarray) -> None:
    boxes = [item["bbox"] for item in entries]
    is_plain = (
        {list}.issuperset(map(type, boxes))
        and {4}.issuperset(map(len, boxes))
        and _NUMBERS.issuperset(map(type, chain.from_iterable(boxes)))
    )
    if is_plain:
        try:
            values = np.fromiter(chain.from_iterable(boxes), np.float64).reshape(-1, 4)
        except OverflowError:
            is_plain = False
    # Not "> limits": that would let NaN pass.
    if is_plain and (np.abs(values) <= limits[:, None]).all() and (values[:, 2:] >= 0).all():
        return
    for item, limit in zip(entries, limits.tolist(), strict=True):
        box = item["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
            expected = "[x, y, w, h]"
        elif not all(abs(value) <= limit for value in box):
            expected = f"numbers from {-limit:g} to {limit:g}, by the size of its image"
        elif box[2] < 0 or box[3] < 0:
            expected = "[x, y, w, h], no side negative"
        else:
            continue
        raise ValueError(f"annotation {item['id']} has the bbox {box!r:.80}, expected {expected}")


def _check_areas(entries: list[Entry]) -> None:
    for item in entries:
        area = item["area"]
        if type(area) not in _NUMBERS or not 0 <= area <= MAX_ID:
            raise ValueError(
                f"annotation {item['id']} has the area {area!r:.40}, expected a number >= 0"
            )


def _check_shapes(entries: list[Entry], images: Mapping[int, Entry], limits: np.ndarray) -> None:
    shaped = [n for n, item in enumerate(entries) if has_segmentation(item)]
    for start in range(0, len(shaped), BLOCK):
        block = shaped[start : start + BLOCK]
        shapes = [entries[n]["segmentation"] for n in block]
        if are_plain_polygons(shapes, limits[block]):
            continue
        for n, shape in zip(block, shapes, strict=True):
            image = images[entries[n]["image_id"]]
            try:
                check_segmentation(shape, image["height"], image["width"])
            except ValueError as error:
                raise ValueError(f"annotation {entries[n]['id']} {error}") from None
