# SPDX-License-Identifier: Apache-2.0
"""iNaturalist's JSON: images of one category each, in COCO's format."""

import json
import os

from longtail.data.formats.image_list import LabeledImages
from longtail.data.formats.lvis_checks import check_complete, checked_categories, checked_entries
from longtail.utils.text import read_text


def read_inaturalist(path: str | os.PathLike) -> LabeledImages:
    """Read images, annotations and categories in iNaturalist's (COCO's) JSON format.

    Raises:
        ValueError: the file is cut short or not JSON, lacks a key, or has an image without
            category, or an annotation of an unknown image or category.
    """
    content = json.loads(read_text(path))
    try:
        images, items, categories = (
            content[key] for key in ("images", "annotations", "categories")
        )
    except KeyError as error:
        raise ValueError(f"the whole has no {error}: not iNaturalist's") from None
    except TypeError:
        raise ValueError("not an object: not iNaturalist's") from None
    if not all(isinstance(entries, list) for entries in (images, items, categories)):
        raise ValueError("images, annotations or categories are not lists of objects")
    images = checked_entries(images, ("id", "file_name"), "image")
    names = {i: item["name"] for i, item in checked_categories(categories, ("name",)).items()}
    file_names = {i: image["file_name"] for i, image in images.items()}
    for image_id, file_name in file_names.items():
        if not isinstance(file_name, str) or not file_name:
            raise ValueError(f"image {image_id} has the file_name {file_name!r:.40}, expected text")
    check_complete(items, ("image_id", "category_id"), "annotation")
    pairs = [(item["image_id"], item["category_id"]) for item in items]
    indices = {category_id: index for index, category_id in enumerate(names)}
    for image_id, category_id in pairs:
        if {type(image_id), type(category_id)} != {int} or not (
            image_id in file_names and category_id in indices
        ):
            raise ValueError(
                f"an annotation is of the unknown image {image_id} or category {category_id}"
            )
    without = file_names.keys() - {image_id for image_id, _ in pairs}
    if without:
        raise ValueError(f"{len(without)} images have no category, such as {min(without)}")
    return LabeledImages(
        files=[file_names[image_id] for image_id, _ in pairs],
        labels=[indices[category_id] for _, category_id in pairs],
        class_names=[names[category_id] for category_id in indices],
    )
