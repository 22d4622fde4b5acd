# SPDX-License-Identifier: Apache-2.0
"""Annotations in LVIS's format that a source brings along: checked, then used as they are."""

from collections.abc import Sequence

from longtail.data.formats.lvis_reader import LVISContent, read_lvis_json


def checked_annotations(path: str, classes: Sequence[str], remedy: str) -> LVISContent:
    """Read annotations, with everything that training and evaluation need.

    Args:
        path: the file.
        classes: the names of its categories, whose ids are 1 to K.
        remedy: what to do about another file, for the messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be used; the message starts with the path.
    """
    try:
        content = read_lvis_json(
            path,
            category_keys=("name", "frequency"),
            image_keys=("neg_category_ids", "not_exhaustive_category_ids"),
            annotation_keys=("area", "segmentation"),
            remedy=remedy,
        )
        names = {item["id"]: item["name"] for item in content.categories}
        expected = dict(enumerate(classes, start=1))
        for number in sorted(names.keys() | expected.keys()):
            if names.get(number) != expected.get(number):
                raise ValueError(
                    f"{path}: category {number} is {names.get(number)!r}, "
                    f"expected {expected.get(number)!r}"
                )
        for what, entries in (("images", content.images), ("annotations", content.annotations)):
            if not entries:
                raise ValueError(f"{path}: no {what}")
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None
    return content
