# SPDX-License-Identifier: Apache-2.0
"""Writing LVIS's JSON: masks as polygons, categories with their frequencies.

H, W: height and width of an image. K categories, with the ids 1 to K.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from longtail.data.statistics.groups import frequency_letter
from longtail.utils.io import atomic_write

# An image's own entry (without id) and its annotations (without ids).
Labelled = tuple[dict[str, Any], list[dict[str, Any]]]


def mask_polygons(mask: np.ndarray) -> list[list[int]]:
    """Outline a mask along the edges of its pixels.

    Args:
        mask: (H, W) bool.

    Returns:
        Polygons ``[x1, y1, x2, y2, ...]`` that pycocotools turns back into exactly this mask. As
        the format's polygons add up, a part with a hole is cut in two across the hole.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    polygons = _crop_polygons(mask[y : y + height, x : x + width])
    return [np.add(polygon, (x, y)).ravel().tolist() for polygon in polygons]


def _crop_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """As :func:`mask_polygons`; each polygon (P, 2) of x, y."""
    # OpenCV traces the centres of the outer pixels. With each pixel doubled, the centre 2i of a
    # pixel's first half is at its edge i, the centre 2i + 1 of its second half at the edge i + 1.
    doubled = np.kron(mask.astype(np.uint8), np.ones((2, 2), dtype=np.uint8))
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # The columns of the hierarchy are next, previous, first child, parent.
    holes = [c for c, row in zip(contours, hierarchy[0], strict=True) if row[3] >= 0]
    if holes:
        # Never at the border: a hole has pixels of the mask on all sides.
        cut = (int(np.mean(holes[0][:, 0, 1])) + 1) // 2
        upper, lower = _crop_polygons(mask[:cut]), _crop_polygons(mask[cut:])
        return upper + [np.add(polygon, (0, cut)) for polygon in lower]
    return [_without_straight_points((contour[:, 0] + 1) // 2) for contour in contours]


def _without_straight_points(polygon: np.ndarray) -> np.ndarray:
    polygon = polygon[(polygon != np.roll(polygon, 1, axis=0)).any(axis=1)]
    before = polygon - np.roll(polygon, 1, axis=0)
    after = np.roll(polygon, -1, axis=0) - polygon
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return polygon[turns]


def instance_annotation(mask: np.ndarray, category_id: int) -> dict[str, Any]:
    """Describe one object as an annotation, still without ``id`` and ``image_id``.

    Args:
        mask: (H, W) bool, not empty.
        category_id: from 1 to K.
    """
    return {
        "category_id": category_id,
        "segmentation": mask_polygons(mask),
        "bbox": list(cv2.boundingRect(mask.astype(np.uint8))),
        "area": int(mask.sum()),
    }


def lvis_documents(
    names: Sequence[str], splits: Mapping[str, Sequence[Labelled]]
) -> dict[str, dict[str, Any]]:
    """Put the images of each split together, number them, and describe the categories.

    As in LVIS, ``frequency``, ``image_count`` and ``instance_count`` are those of the training
    annotations in every split.

    Args:
        names: K category names, in the order of their ids.
        splits: for each split its images with their annotations; one split is ``"train"``.

    Returns:
        The content of each split's JSON file.
    """
    image_count, instance_count = count_annotations(splits["train"], len(names))
    categories = [
        {
            "id": index + 1,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": name,
            "frequency": frequency_letter(int(image_count[index])),
            "image_count": int(image_count[index]),
            "instance_count": int(instance_count[index]),
        }
        for index, name in enumerate(names)
    ]
    return {
        split: {"categories": categories, **_numbered(images)} for split, images in splits.items()
    }


def _numbered(images: Sequence[Labelled]) -> dict[str, list[dict[str, Any]]]:
    entries, annotations = [], []
    for image_id, (image, items) in enumerate(images, start=1):
        entries.append({"id": image_id, **image})
        for item in items:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **item})
    return {"images": entries, "annotations": annotations}


def count_annotations(
    images: Sequence[Labelled], num_categories: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count the images and the instances of each category.

    Args:
        images: entries with their annotations.
        num_categories: K.

    Returns:
        ``(image_count, instance_count)``, each (K,) int64.
    """
    counts = np.zeros((2, num_categories), dtype=np.int64)
    for _, annotations in images:
        of_image = np.bincount(
            [item["category_id"] - 1 for item in annotations], minlength=num_categories
        )
        counts += [of_image > 0, of_image]
    return counts[0], counts[1]


def write_document(path: str | os.PathLike, document: Mapping[str, Any]) -> None:
    """Write one split's JSON, on one line (indentation would take most of the file)."""
    with atomic_write(path) as file:
        json.dump(document, file, separators=(",", ":"))
        file.write("\n")
