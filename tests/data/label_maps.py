# SPDX-License-Identifier: Apache-2.0
"""Small label maps and records, and the plain loop that counts them."""

import numpy as np
from PIL import Image

CLASSES = ["road", "car", "pole", "sign", "never"]


def save_labels(path, labels, mode="L"):
    """Write a label map uncompressed, so that files of one shape have one size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    if mode == "P":
        # Colours whose brightness has nothing to do with the index.
        image.putpalette([(37 * value + 11) % 256 for value in range(768)])
    image.save(path, compress_level=0)
    assert Image.open(path).mode == mode
    return {"file_name": str(path.with_suffix(".jpg")), "sem_seg_file_name": str(path)}


def random_labels(seed, count, shape=(9, 14), classes=(0, 1, 2, 3, 255)):
    generator = np.random.default_rng(seed)
    # Few classes an image, so that images and pixels do not have the same order.
    return [
        generator.choice(generator.choice(classes, 3), size=shape).astype(np.int64)
        for _ in range(count)
    ]


def reference_counts(maps, num_classes, ignore_label=255):
    pixels, images = [0] * num_classes, [0] * num_classes
    for labels in maps:
        for value, count in zip(*np.unique(labels, return_counts=True), strict=True):
            if value != ignore_label:
                pixels[value] += int(count)
                images[value] += 1
    return pixels, images


def instance_record(name, categories, crowd=()):
    annotations = [{"category_id": category, "iscrowd": 0} for category in categories]
    annotations += [{"category_id": category, "iscrowd": 1} for category in crowd]
    return {"file_name": name, "annotations": annotations}
