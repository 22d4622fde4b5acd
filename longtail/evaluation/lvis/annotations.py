"""The ground truth of an LVIS data set, as its evaluation needs it.

LVIS is annotated by federation: an image says for a few categories only whether and where they
are. For those of its annotations, of ``neg_category_ids`` (verified to be absent) and of
``not_exhaustive_category_ids`` (not every instance is annotated) there are rules; a detection of
any other category counts for nothing.

Shapes: N images, M annotations, K categories. Images and categories are indexed from 0 in the
order of their ids.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

FREQUENCIES = ("r", "c", "f")


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
        """Which detections the federated rules can count at all.

        Args:
            category: (D,) category indices of detections.

        Returns:
            (D,) bool: False where nothing is known of the category in this image.
        """
        return np.isin(category, self.category) | np.isin(category, self.negative)


@dataclass(frozen=True)
class LVISAnnotations:
    """What :func:`read_lvis_annotations` gives.

    Attributes:
        json_file: where it was read.
        category_ids: (K,) sorted.
        categories: K dicts ``{"id", "name", "frequency", "image_count"}`` in this order;
            ``image_count`` (training images) is None where the file does not tell.
        image_ids: (N,) sorted.
        sizes: N pairs (height, width).
        images: the annotations of the N images.
        has_annotations: False for a test set, whose annotations are kept back.
    """

    json_file: str
    category_ids: np.ndarray
    categories: list[dict[str, Any]]
    image_ids: np.ndarray
    sizes: list[tuple[int, int]]
    images: list[GroundTruth]
    has_annotations: bool

    def frequency_groups(self) -> dict[str, np.ndarray]:
        """Category indices by frequency, ``"r"``, ``"c"`` and ``"f"``."""
        letters = np.array([category["frequency"] for category in self.categories])
        return {letter: np.flatnonzero(letters == letter) for letter in FREQUENCIES}

    def masks(self, image: int) -> list[dict[str, Any]]:
        """The annotations' compressed RLEs of one image.

        Args:
            image: image index.

        Raises:
            ValueError: an annotation has no segmentation, or an invalid one.
        """
        height, width = self.sizes[image]
        rles = []
        for shape in self.images[image].segmentation:
            try:
                rles.append(_rle(shape, height, width))
            except (TypeError, ValueError, IndexError, KeyError) as error:
                raise ValueError(
                    f"{self.json_file}: image {self.image_ids[image]} has an annotation with an "
                    f"invalid segmentation ({error}); masks need polygons of 3 points or more, or "
                    f"an RLE of size {height} x {width}"
                ) from None
        return rles


def read_lvis_annotations(json_file: str | os.PathLike) -> LVISAnnotations:
    """Read and check a file in LVIS's format.

    Annotations without area are left out, as lvis-api does.

    Args:
        json_file: the file; one without the key ``annotations`` is a test set's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short or no JSON, lacks a key, has an id twice, or has an annotation
            of an unknown image or category.
    """
    path = os.fspath(json_file)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: the LVIS evaluation needs the annotations of its data set"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is cut short or no JSON ({error}); fetch it again") from None
    try:
        return _parse(content, path)
    except KeyError as error:
        raise ValueError(f"{path}: an entry has no key {error}; expected LVIS's format") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not in LVIS's format ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def category_of_class(annotations: LVISAnnotations, metadata: Any, dataset_name: str) -> np.ndarray:
    """The category index of each class index of a model.

    Args:
        annotations: the data set's.
        metadata: the data set's; ``thing_dataset_id_to_contiguous_id`` says which class an id is.
            Without it class c has the id c + 1, without ``thing_classes`` as well the classes are
            the categories in the order of their ids.
        dataset_name: for the messages.

    Returns:
        (classes,) category indices.

    Raises:
        ValueError: the metadata name a category that the annotations lack, or leave a class out.
    """
    index_of_id = {int(number): index for index, number in enumerate(annotations.category_ids)}
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if mapping is None:
        names = metadata.get("thing_classes")
        if names is None:
            return np.arange(len(index_of_id))
        mapping = {index + 1: index for index in range(len(names))}
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


def _parse(content: dict[str, Any], path: str) -> LVISAnnotations:
    categories = sorted(content["categories"], key=lambda item: item["id"])
    images = sorted(content["images"], key=lambda item: item["id"])
    category_index = _index(categories, "category")
    image_index = _index(images, "image")
    for category in categories:
        if category["frequency"] not in FREQUENCIES:
            raise ValueError(
                f"category {category['id']} has the frequency {category['frequency']!r}, expected "
                "'r', 'c' or 'f'"
            )
    by_image: list[list[dict]] = [[] for _ in images]
    annotations = content.get("annotations", [])
    _index(annotations, "annotation")
    for item in annotations:
        for key, known in (("image_id", image_index), ("category_id", category_index)):
            if item[key] not in known:
                raise ValueError(
                    f"annotation {item['id']} has the unknown {key} {item[key]}; images, "
                    "categories and annotations must come from one file"
                )
        if item["area"] > 0:
            by_image[image_index[item["image_id"]]].append(item)
    if "annotations" not in content:
        # What a test set's images lack as well.
        images = [{"neg_category_ids": [], "not_exhaustive_category_ids": [], **i} for i in images]
    return LVISAnnotations(
        json_file=path,
        category_ids=np.array([item["id"] for item in categories], np.int64),
        categories=[
            {
                "id": item["id"],
                "name": item.get("name", str(item["id"])),
                "frequency": item["frequency"],
                "image_count": item.get("image_count"),
            }
            for item in categories
        ],
        image_ids=np.array([item["id"] for item in images], np.int64),
        sizes=[(int(item["height"]), int(item["width"])) for item in images],
        images=[
            _ground_truth(image, items, category_index)
            for image, items in zip(images, by_image, strict=True)
        ],
        has_annotations="annotations" in content,
    )


def _ground_truth(
    image: dict[str, Any], items: list[dict[str, Any]], category_index: dict[int, int]
) -> GroundTruth:
    for item in items:
        if len(item["bbox"]) != 4:
            raise ValueError(
                f"annotation {item['id']} has the bbox {item['bbox']}, expected [x, y, w, h]"
            )

    def indices(key: str) -> np.ndarray:
        # Ids that the file does not list can match no detection.
        return np.array(
            [category_index[i] for i in image[key] if i in category_index], dtype=np.int32
        )

    return GroundTruth(
        category=np.array([category_index[item["category_id"]] for item in items], np.int32),
        boxes=np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4),
        area=np.array([item["area"] for item in items], np.float64),
        ignored=np.array([bool(item.get("ignore", 0)) for item in items], bool),
        segmentation=[_compact(item.get("segmentation")) for item in items],
        negative=indices("neg_category_ids"),
        not_exhaustive=indices("not_exhaustive_category_ids"),
    )


def _index(items: Sequence[dict[str, Any]], what: str) -> dict[int, int]:
    index = {item["id"]: position for position, item in enumerate(items)}
    if len(index) != len(items):
        raise ValueError(f"two entries have the same {what} id")
    return index


def _compact(shape: Any) -> Any:
    """Polygons as arrays: a list of floats takes four times the memory."""
    if not isinstance(shape, list):
        return shape
    try:
        return [np.array(polygon, np.float64) for polygon in shape]
    except (TypeError, ValueError):
        return None  # as if there were none: boxes can still be evaluated


def _rle(shape: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(shape, list):
        if not shape or any(p.ndim != 1 or len(p) < 6 or len(p) % 2 for p in shape):
            raise ValueError("a polygon of fewer than 3 points")
        return mask_util.merge(mask_util.frPyObjects(shape, height, width))
    if not isinstance(shape, dict):
        raise ValueError("none at all")
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"an RLE of size {shape['size']}")
    if isinstance(shape["counts"], list):
        return mask_util.frPyObjects(shape, height, width)
    return shape
