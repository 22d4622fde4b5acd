# SPDX-License-Identifier: Apache-2.0
"""Registered data sets of the same classes in another order: mapped, so that an index is one class.

Shapes: K classes.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.data.datasets.classes import class_names, class_order
from longtail.data.datasets.lvis import load_lvis_json
from longtail.data.datasets.register import replace_registration

# In the metadata of semantic segmentation: the classes by the model's indices, where the label
# maps have them in another order.
MODEL_CLASSES = "model_classes"


def align_classes(
    dataset_name: str, reference: Sequence[str], other: str, *, for_training: bool = False
) -> None:
    """Let a registered data set number its classes as a model does.

    Objects in LVIS's JSON and lists of images are registered anew, with other class indices. Label
    maps stay as they are: the evaluator translates predictions by ``model_classes``.

    Args:
        dataset_name: a registered data set, read if it knows its classes only then.
        reference: the K names in the model's order.
        other: what has them, for the message.
        for_training: whether records are to be trained on, and not only evaluated.

    Raises:
        ValueError: the data set has other classes, or the same in an order that cannot be mapped.
        OSError: as reading the data set.
    """
    names = class_names(dataset_name)
    order = class_order(
        names,
        reference,
        dataset_name,
        other,
        "name data sets of the same classes, or register them with the same names",
    )
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind == "sem_seg" and metadata.get(MODEL_CLASSES) is not None:
        _replace(dataset_name, DatasetCatalog[dataset_name], **{MODEL_CLASSES: None})
    if order == list(range(len(order))):
        return
    load = DatasetCatalog[dataset_name]
    changes: dict[str, Any] = {}
    if metadata.get("coco_json") and _is_ours(load):
        changes["thing_classes"] = list(reference)
    elif kind == "lvis" and _is_ours(load):
        ids = metadata.get("thing_dataset_id_to_contiguous_id")
        ids = ids or {index + 1: index for index in range(len(names))}
        changes["thing_dataset_id_to_contiguous_id"] = {i: order[c] for i, c in ids.items()}
        changes["thing_classes"] = list(reference)
    elif kind == "classification" and metadata.get("load_labels") is not None:
        load = functools.partial(_mapped_records, load, order)
        changes["load_labels"] = functools.partial(_mapped_labels, metadata.load_labels, order)
        changes["thing_classes"] = list(reference)
    elif kind == "sem_seg" and not for_training:
        changes[MODEL_CLASSES] = list(reference)
    else:
        first = next(c for c, place in enumerate(order) if c != place)
        raise ValueError(
            f"{dataset_name} and {other} have the same classes in another order (class {first} is "
            f"{names[first]!r} in the first and {reference[first]!r} in the second), which cannot "
            "be mapped here: write the labels in one order, and register them so"
        )
    _replace(dataset_name, load, **changes)
    logging.getLogger(__name__).info(
        "%s has the classes of %s in another order: they are mapped by their names",
        *(dataset_name, other),
    )


def _is_ours(load: Callable) -> bool:
    """Whether a data set is read by the loader that takes class indices from the metadata."""
    return isinstance(load, functools.partial) and load.func is load_lvis_json


def _replace(name: str, load: Callable[[], list[dict]], **changes: Any) -> None:
    metadata = {**MetadataCatalog.get(name).as_dict(), **changes}
    kept = {
        key: value for key, value in metadata.items() if value is not None or key not in changes
    }
    replace_registration(name, load, kept)


def _mapped_records(load: Callable[[], list[dict]], order: Sequence[int]) -> list[dict]:
    return [{**record, "label": order[record["label"]]} for record in load()]


def _mapped_labels(load: Callable[[], list[int]], order: Sequence[int]) -> list[int]:
    return [order[label] for label in load()]
