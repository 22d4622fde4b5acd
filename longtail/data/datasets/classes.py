# SPDX-License-Identifier: Apache-2.0
"""The names of classes: whether two lists are of the same classes, and which is which.

Shapes: K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata

from longtail.data.statistics.counting import class_metadata


def class_names(dataset_name: str, *, read: bool = True) -> list[str]:
    """The K names of a registered data set's classes.

    Args:
        dataset_name: the registered name.
        read: read the data set if it knows its classes only then.

    Returns:
        ``stuff_classes`` of semantic segmentation, ``thing_classes`` of other sets; empty if they
        are not known.

    Raises:
        ValueError: no data set of this name is registered; or as reading it.
        OSError: as reading it.
    """
    metadata = class_metadata(dataset_name)
    key = "stuff_classes" if metadata.get("evaluator_type") == "sem_seg" else "thing_classes"
    if not metadata.get(key) and read:
        # The lists of image classification are enough, and need no image.
        load = metadata.get("load_labels") or (lambda: DatasetCatalog.get(dataset_name))
        load()
    return list(metadata.get(key) or ())


def class_order(
    names: Sequence[str], reference: Sequence[str], owner: str, other: str, remedy: str = ""
) -> list[int]:
    """Find each of K classes in another list of the same classes.

    The names 0 to K - 1, in this order, stand for classes without names: they fit any others.

    Args:
        names: K names.
        reference: K names, in any order.
        owner: whose names the first are, for the message.
        other: whose the reference is.
        remedy: what to do if they are different classes.

    Returns:
        For each of ``names`` its index in ``reference``.

    Raises:
        ValueError: they are not the same classes.
    """
    names, reference = list(names), list(reference)
    unnamed = [str(index) for index in range(len(names))]
    same_number = len(names) == len(reference)
    if names == reference or (same_number and unnamed in (names, reference)):
        return list(range(len(names)))
    index = {name: place for place, name in enumerate(reference)}
    if same_number and len(index) == len(names) and index.keys() == set(names):
        return [index[name] for name in names]
    raise ValueError(_difference(names, reference, owner, other) + (f": {remedy}" * bool(remedy)))


def check_same_order(
    names: Sequence[str], reference: Sequence[str], owner: str, other: str, remedy: str
) -> None:
    """Refuse other classes, and the same ones in another order.

    Args:
        names: K names.
        reference: K names.
        owner: whose names the first are, for the message.
        other: whose the reference is.
        remedy: what to do.

    Raises:
        ValueError: they differ.
    """
    if class_order(names, reference, owner, other, remedy) != list(range(len(names))):
        raise ValueError(
            f"{_difference(list(names), list(reference), owner, other)}, in another order: {remedy}"
        )


def classes_of_categories(
    names: Mapping[int, Sequence[str]], metadata: Metadata, path: str
) -> dict[int, int]:
    """Tell which class each category of a file in LVIS's format is.

    Args:
        names: by category id, in ascending order, what the category may be called; nothing if the
            file does not say.
        metadata: of the data set. ``thing_dataset_id_to_contiguous_id`` answers it. With
            ``coco_json``, ``thing_classes`` are the categories by their names. Without either,
            ``thing_classes`` are the categories 1 to K, by their names; without them as well, the
            categories in the order of their ids are the classes.
        path: the file, for the message.

    Returns:
        The class index (0..K-1) of each category id that is a class.

    Raises:
        ValueError: the file's names are not those of ``thing_classes``.
    """
    given: dict[int, int] | None = metadata.get("thing_dataset_id_to_contiguous_id")
    classes: list[str] | None = metadata.get("thing_classes")
    if given is not None:
        return dict(given)
    if classes is None:
        return {number: index for index, number in enumerate(names)}
    if metadata.get("coco_json"):
        return {
            number: classes.index(name) for number, name in _checked_names(names, classes, path)
        }
    called = [names.get(index + 1) or (name,) for index, name in enumerate(classes)]
    if all(name in own for name, own in zip(classes, called, strict=True)):
        order: Any = range(len(classes))
    else:
        remedy = "the file is another's, or the data set is registered with other classes"
        own_names = [own[0] for own in called]
        order = class_order(own_names, classes, path, "the registered data set", remedy)
    return {index + 1: place for index, place in enumerate(order)}


def _checked_names(
    names: Mapping[int, Sequence[str]], classes: Sequence[str], path: str
) -> list[tuple[int, str]]:
    """The name of each category, all of which are classes, and the other way round."""
    own = [(number, called[0]) for number, called in names.items()]
    listed = {name for _, name in own}
    sides = (("the file", sorted(listed - {*classes})), ("classes", sorted({*classes} - listed)))
    odd = [f"{', '.join(map(repr, found[:4]))} only in {side}" for side, found in sides if found]
    if odd:
        raise ValueError(
            f"{path}: its {len(own)} categories are not the {len(classes)} classes: "
            f"{' and '.join(odd)}; correct classes, or the categories"
        )
    return own


def _difference(names: list[str], reference: list[str], owner: str, other: str) -> str:
    if len(names) != len(reference):
        return f"{owner} has {len(names)} classes, {other} has {len(reference)}"
    index = next(i for i, pair in enumerate(zip(names, reference, strict=True)) if len({*pair}) > 1)
    return (
        f"{owner} and {other} have different classes: class {index} is {names[index]!r} in the "
        f"first and {reference[index]!r} in the second"
    )
