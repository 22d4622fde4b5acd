# SPDX-License-Identifier: Apache-2.0
"""Every grouping of classes by how often they occur.

- LVIS's rare, common and frequent categories, by training images (``frequency_groups``);
- head, body and tail of semantic segmentation, by pixels (``groups_by_pixel_share``);
- the many, medium and few shots of image classification, by training images (``shot_groups``).

Shapes: K classes. A grouping is a dict of class indices (0..K-1) by the group's name.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class FrequencyBounds(NamedTuple):
    """The most training images of a rare and of a common category; LVIS's by default."""

    rare: int = 10
    common: int = 100

    def __str__(self) -> str:
        """Say them as a table's footnote does."""
        return f"r up to {self.rare} training images, c up to {self.common}, f more"


LVIS_BOUNDS = FrequencyBounds()
LETTERS = {"r": "rare", "c": "common", "f": "frequent"}

# Image classification: fewest images of a medium class, and most.
MEDIUM_MIN = 20
MEDIUM_MAX = 100


def frequency_letter(image_count: int, bounds: FrequencyBounds = LVIS_BOUNDS) -> str:
    """Choose LVIS's letter: ``"r"`` up to 10 training images, ``"c"`` up to 100, ``"f"`` beyond.

    Args:
        image_count: training images that contain the category.
        bounds: other numbers than 10 and 100.
    """
    if image_count <= bounds.rare:
        return "r"
    return "c" if image_count <= bounds.common else "f"


def groups_by_letter(letters: Iterable[str]) -> dict[str, list[int]]:
    """Group class indices by LVIS's letter, ``"r"``, ``"c"`` and ``"f"``.

    Args:
        letters: (K,) one of the three for each class.

    Raises:
        KeyError: another letter.
    """
    groups: dict[str, list[int]] = {letter: [] for letter in LETTERS}
    for index, letter in enumerate(letters):
        groups[letter].append(index)
    return groups


def frequency_groups(
    image_count: Iterable[int], bounds: FrequencyBounds = LVIS_BOUNDS
) -> dict[str, list[int]]:
    """Group class indices into rare, common and frequent ones.

    Args:
        image_count: (K,) training images that contain the class.
        bounds: of rare and common classes.
    """
    groups = groups_by_letter(frequency_letter(count, bounds) for count in image_count)
    return {LETTERS[letter]: indices for letter, indices in groups.items()}


def shot_groups(image_count: Iterable[int]) -> dict[str, list[int]]:
    """Group class indices into many (over 100), medium (20 to 100) and few training images.

    Args:
        image_count: (K,) training images of the class.
    """
    groups: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    for index, count in enumerate(image_count):
        if count > MEDIUM_MAX:
            groups["many"].append(index)
        else:
            groups["medium" if count >= MEDIUM_MIN else "few"].append(index)
    return groups


def thirds_by_rank(ranked: npt.ArrayLike) -> dict[str, list[int]]:
    """Cut classes into ``"head"``, ``"body"`` and ``"tail"``.

    Args:
        ranked: (K,) class indices, the most frequent class first.

    Returns:
        Class indices of the three groups, each in increasing order; a class too many goes to the
        head, a second one to the body.
    """
    thirds = np.array_split(np.asarray(ranked), 3)
    return {
        name: sorted(third.tolist())
        for name, third in zip(("head", "body", "tail"), thirds, strict=True)
    }


def groups_by_pixel_share(pixel_count: npt.ArrayLike) -> dict[str, list[int]]:
    """Group the classes of a data set without a split of its own: thirds by rank.

    The classes are sorted by their pixels, most first (equal ones by class index), and cut into
    three parts of equal size (:func:`thirds_by_rank`).

    ADE20K's split (DisAlign, Table 16) cuts at fixed shares instead: head above 1 % of the pixels,
    tail up to 0.1 %. That suits 150 classes; with the 11 of CamVid every class but one would be
    head or body and the tail empty. Thirds by rank always give three groups to compare (from 3
    classes on).

    Args:
        pixel_count: (K,) pixels of each class, or its share of them: only the order matters.

    Returns:
        Class indices of ``"head"``, ``"body"`` and ``"tail"``, each in increasing order.

    Raises:
        ValueError: ``pixel_count`` is not one-dimensional.
    """
    counts = np.asarray(pixel_count, dtype=np.float64)
    if counts.ndim != 1:
        raise ValueError(f"groups_by_pixel_share: expected (K,) counts, got {counts.shape}")
    return thirds_by_rank(np.argsort(-counts, kind="stable"))


def checked_groups(
    groups: Mapping[str, Sequence[int]], num_classes: int, owner: str
) -> dict[str, list[int]]:
    """Copy groups that hold every class exactly once.

    Args:
        groups: class indices by group name.
        num_classes: K.
        owner: whose groups they are, for the message.

    Raises:
        ValueError: a class is in none or in several of the groups, or an index is not a class.
    """
    groups = {name: list(classes) for name, classes in groups.items()}
    if sorted(itertools.chain.from_iterable(groups.values())) != list(range(num_classes)):
        raise ValueError(
            f"{owner}: class_groups must hold each class index 0..{num_classes - 1} exactly once, "
            f"got {groups}"
        )
    return groups
