"""iNaturalist 2018: 8142 species, 1000 down to 2 training images.

    root/inaturalist2018/train_val2018/*/*/*.jpg
    root/inaturalist2018/{train,val}2018.json

as train_val2018.tar.gz and {train,val}2018.json.tar.gz unpack there. Class indices follow the
ascending category ids.
"""

import json
import os

from longtail.data.datasets.image_list import register_image_list
from longtail.data.datasets.register import PathLike
from longtail.data.formats.image_list import LabeledImages

NAME = "inaturalist2018"
NUM_CLASSES = 8142
SIZES = {"train": 437513, "val": 24426}


def register_inaturalist(root: str) -> None:
    """Register ``inaturalist2018_{train,val}``.

    Args:
        root: the folder that holds the data sets.
    """
    base = os.path.join(root, NAME)
    for split in SIZES:
        register_image_list(
            f"{NAME}_{split}",
            os.path.join(base, f"{split}2018.json"),
            base,
            training_set=f"{NAME}_train",
            num_classes=NUM_CLASSES,
            every_class=split == "train",
            hint=f"'longtail prepare {NAME}' says what belongs where",
            read=read_inaturalist,
        )


def read_inaturalist(path: PathLike) -> LabeledImages:
    """Read images, annotations and categories in iNaturalist's (COCO's) JSON format.

    Raises:
        ValueError: the file is cut short or no JSON, lacks a key, or has an image without category,
            or an annotation of an unknown image or category.
    """
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    try:
        file_names = {image["id"]: image["file_name"] for image in content["images"]}
        pairs = [(item["image_id"], item["category_id"]) for item in content["annotations"]]
        names = {category["id"]: category["name"] for category in content["categories"]}
    except KeyError as error:
        raise ValueError(f"an entry, or the whole, has no {error}: not iNaturalist's") from None
    except TypeError:
        raise ValueError("images, annotations or categories are no lists of objects") from None
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
