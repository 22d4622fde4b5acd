# SPDX-License-Identifier: Apache-2.0
"""iNaturalist's JSON: images of one category each, in COCO's format."""

import json
import os

from longtail.data.formats.image_list import LabeledImages
from longtail.utils.text import read_text


def read_inaturalist(path: str | os.PathLike) -> LabeledImages:
    """Read images, annotations and categories in iNaturalist's (COCO's) JSON format.

    Raises:
        ValueError: the file is cut short or not JSON, lacks a key, or has an image without
            category, or an annotation of an unknown image or category.
    """
    content = json.loads(read_text(path))
    try:
        file_names = {image["id"]: image["file_name"] for image in content["images"]}
        pairs = [(item["image_id"], item["category_id"]) for item in content["annotations"]]
        names = {category["id"]: category["name"] for category in content["categories"]}
    except KeyError as error:
        raise ValueError(f"an entry, or the whole, has no {error}: not iNaturalist's") from None
    except TypeError:
        raise ValueError("images, annotations or categories are not lists of objects") from None
    indices = {category_id: index for index, category_id in enumerate(sorted(names))}
    for image_id, category_id in pairs:
        if image_id not in file_names or category_id not in indices:
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
