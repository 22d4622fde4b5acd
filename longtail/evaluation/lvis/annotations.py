# SPDX-License-Identifier: Apache-2.0
"""The ground truth of an LVIS data set, as its evaluation needs it.

LVIS is annotated by federation: an image says for a few categories only whether and where they
are. For those of its annotations, of ``neg_category_ids`` (verified to be absent) and of
``not_exhaustive_category_ids`` (not every instance is annotated) there are rules; a detection of
any other category counts for nothing.

Shapes: N images, M annotations, K categories. Images and categories are indexed from 0 in the
order of their ids.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata

from longtail.data.datasets.classes import classes_of_categories
from longtail.data.formats.coco_json import LVIS_KEYS, read_coco_json
from longtail.data.formats.lvis_checks import SHAPES, category_names
from longtail.data.formats.lvis_reader import LVISContent, read_lvis_json
from longtail.data.formats.lvis_shapes import Entry, checked_rles
from longtail.data.statistics.groups import frequency_letter, groups_by_letter


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of one image, G of them, in the order of the file.

    Attributes:
        category: (G,) category indices.
        boxes: (G, 4) as x, y, width, height.
        area: (G,) as the file gives it, for the ranges of sizes; all positive.
        ignored: (G,) bool; detections of these count neither as right nor as wrong.
        segmentation: G polygons or RLEs as in the file, None where an annotation has none.
        negative: category indices that are known to be absent.
        not_exhaustive: category indices whose instances are not all annotated.
    """

    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    ignored: np.ndarray
    segmentation: list[Any]
    negative: np.ndarray
    not_exhaustive: np.ndarray

    def countable(self, category: np.ndarray) -> np.ndarray:
        """Tell which detections the federated rules can count at all.

        Args:
            category: (D,) category indices of detections.

        Returns:
            (D,) bool: False where nothing is known of the category in this image.
        """
        return np.isin(category, np.concatenate([self.category, self.negative]))


@dataclass(frozen=True)
class LVISAnnotations:
    """Ground truth of a data set.

    Attributes:
        json_file: where it was read.
        category_ids: (K,) sorted.
        categories: K dicts ``{"id", "name", "frequency", "image_count", "instance_count"}`` in
            this order; the counts are those of the training set, and None where the file lacks
            them, ``frequency`` where it lacks ``image_count`` as well.
        image_ids: (N,) sorted.
        sizes: N pairs (height, width).
        images: the annotations of the N images.
        has_annotations: False for a test set, whose annotations are kept back.
        names: for each of the K categories what it may be called, nothing if the file does not
            say.
    """

    json_file: str
    category_ids: np.ndarray
    categories: list[dict[str, Any]]
    image_ids: np.ndarray
    sizes: list[tuple[int, int]]
    images: list[GroundTruth]
    has_annotations: bool
    names: Sequence[Sequence[str]] = ()

    def frequency_groups(self) -> dict[str, np.ndarray]:
        """Group category indices by frequency, ``"r"``, ``"c"`` and ``"f"``.

        A category whose frequency nothing tells is in no group.
        """
        letters = [category["frequency"] for category in self.categories]
        known = [index for index, letter in enumerate(letters) if letter is not None]
        groups = groups_by_letter(letters[index] for index in known)
        return {
            letter: np.array([known[i] for i in indices], np.int64)
            for letter, indices in groups.items()
        }

    def masks(self, image: int) -> list[dict[str, Any]]:
        """Encode the annotations of one image as compressed RLEs.

        Args:
            image: image index.

        Raises:
            ValueError: an annotation has no segmentation.
        """
        shapes = self.images[image].segmentation
        if any(shape is None for shape in shapes):
            raise ValueError(
                f"{self.json_file}: image {self.image_ids[image]} has an annotation without a "
                "segmentation, so that masks cannot be evaluated: give it one, or evaluate boxes "
                "alone"
            )
        # The others were checked when they were read.
        return checked_rles(shapes, *self.sizes[image])


def read_lvis_annotations(
    json_file: str | os.PathLike, *, with_masks: bool = True, coco: bool = False
) -> LVISAnnotations:
    """Read a file in LVIS's format for evaluation.

    Annotations whose area is 0 are left out, as lvis-api does; the log says how many.

    Args:
        json_file: the file; one without the key ``annotations`` is a test set's.
        with_masks: read segmentations, where there are some.
        coco: whether it is COCO's JSON. Every category that an image has no annotation of is
            absent there, and those of crowds are not exhaustively annotated; an area that is
            missing is that of the segmentation, or else of the box.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short or not JSON, lacks a key, has an id twice or an invalid value,
            has an annotation of an unknown image or category, or a crowd (``iscrowd`` 1), for
            which LVIS's metrics have no rule; ``coco``, and some images say what LVIS's do.
    """
    if coco:
        return _arrays(_without_crowds(read_coco_json(json_file)), exhaustive=True)
    try:
        content = read_lvis_json(
            json_file,
            image_keys=LVIS_KEYS,
            annotation_keys=("area", *([SHAPES] if with_masks else [])),
            remedy="the LVIS evaluation needs the annotations of its data set",
        )
    except ValueError as error:
        if any(f"has no {key!r}" in str(error) for key in LVIS_KEYS):
            raise ValueError(
                f"{error}: a file in COCO's format, with nothing of LVIS, is declared in a data "
                "file (kind: instances) or registered by register_coco_json"
            ) from None
        raise
    items = content.annotations or []
    crowds = [item["id"] for item in items if item.get("iscrowd", 0)]
    if crowds:
        raise ValueError(
            f"{content.path}: {len(crowds)} annotations are crowds (such as {crowds[0]}, iscrowd "
            "1), for which LVIS's metrics have no rule: take them out to evaluate, or add their "
            "categories to the not_exhaustive_category_ids of their images"
        )
    empty = sum(item["area"] == 0 for item in items)
    if empty:
        logging.getLogger(__name__).warning(
            f"{content.path}: {empty} of {len(items)} annotations with the area 0 are left out"
        )
    if not with_masks:
        for item in items:
            item.pop("segmentation", None)
    return _arrays(content)


def category_of_class(
    annotations: LVISAnnotations, metadata: Metadata, dataset_name: str
) -> np.ndarray:
    """Map each class index of a model to a category index.

    Args:
        annotations: the data set's.
        metadata: the data set's; ``thing_dataset_id_to_contiguous_id`` says which class an id is.
            Without it class c has the id c + 1, or the file's names say which; without
            ``thing_classes`` as well the classes are the categories in the order of their ids.
        dataset_name: for the messages.

    Returns:
        (classes,) category indices.

    Raises:
        ValueError: the metadata name a category that the annotations lack, leave a class out, or
            have other names than the annotations.
    """
    ids = annotations.category_ids.tolist()
    index_of_id = {number: index for index, number in enumerate(ids)}
    names = dict(zip(ids, annotations.names or [()] * len(ids), strict=True))
    mapping = classes_of_categories(names, metadata, annotations.json_file)
    unknown = sorted(set(mapping) - set(index_of_id))
    if unknown:
        raise ValueError(
            f"LVISEvaluator: {dataset_name!r} has the category id {unknown[0]}, but "
            f"{annotations.json_file} does not; is it the file of another data set?"
        )
    id_of_class = {index: number for number, index in mapping.items()}
    if sorted(id_of_class) != list(range(len(id_of_class))):
        raise ValueError(
            f"LVISEvaluator: the class indices of {dataset_name!r} must be 0 to {len(mapping) - 1}"
        )
    return np.array([index_of_id[id_of_class[c]] for c in range(len(id_of_class))], np.int64)


def _without_crowds(content: LVISContent) -> LVISContent:
    """Turn the crowds of an image into its categories that are not exhaustively annotated."""
    images = {image["id"]: image for image in content.images}
    for item in content.annotations or ():
        if item["iscrowd"]:
            crowds = images[item["image_id"]].setdefault("not_exhaustive_category_ids", [])
            crowds.append(item["category_id"])
    if content.annotations is None:
        return content
    kept = [item for item in content.annotations if not item["iscrowd"]]
    return replace(content, annotations=kept)


def _arrays(content: LVISContent, *, exhaustive: bool = False) -> LVISAnnotations:
    category_index = {item["id"]: index for index, item in enumerate(content.categories)}
    by_image: dict[int, list[Entry]] = {image["id"]: [] for image in content.images}
    for item in content.annotations or ():
        if item["area"] > 0:
            by_image[item["image_id"]].append(item)
    return LVISAnnotations(
        json_file=content.path,
        category_ids=np.array(list(category_index), np.int64),
        categories=[
            {
                "id": item["id"],
                "name": item.get("name", str(item["id"])),
                "frequency": item.get("frequency") or _letter(item.get("image_count")),
                "image_count": item.get("image_count"),
                "instance_count": item.get("instance_count"),
            }
            for item in content.categories
        ],
        names=[category_names(item) for item in content.categories],
        image_ids=np.array(list(by_image), np.int64),
        sizes=[(image["height"], image["width"]) for image in content.images],
        images=[
            _ground_truth(image, by_image[image["id"]], category_index, exhaustive)
            for image in content.images
        ],
        has_annotations=content.annotations is not None,
    )


def _ground_truth(
    image: Entry, items: Sequence[Entry], category_index: Mapping[int, int], exhaustive: bool
) -> GroundTruth:
    category = np.array([category_index[item["category_id"]] for item in items], np.int32)

    def indices(key: str) -> np.ndarray:
        # A test set lacks the key.
        return np.array([category_index[i] for i in image.get(key, ())], np.int32)

    return GroundTruth(
        category=category,
        boxes=np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4),
        area=np.array([item["area"] for item in items], np.float64),
        ignored=np.array([bool(item.get("ignore", 0)) for item in items], bool),
        segmentation=[_compact(item.get("segmentation") or None) for item in items],
        negative=np.setdiff1d(np.arange(len(category_index), dtype=np.int32), category)
        if exhaustive
        else indices("neg_category_ids"),
        not_exhaustive=indices("not_exhaustive_category_ids"),
    )


def _letter(image_count: object) -> str | None:
    return frequency_letter(image_count) if isinstance(image_count, int) else None


def _compact(shape: object) -> object:
    """Turn polygons into arrays: a list of floats takes four times the memory."""
    if not isinstance(shape, list):
        return shape
    return [np.array(polygon, np.float64) for polygon in shape]
