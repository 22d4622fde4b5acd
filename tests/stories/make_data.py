# SPDX-License-Identifier: Apache-2.0
"""Generate the data that the users of the stories have: ``python make_data.py KIND``."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

GENERATOR = np.random.default_rng(0)
COLORS = np.array([[130, 130, 130], [40, 40, 200], [220, 200, 30]])


def save_photo(path: Path, labels: np.ndarray) -> None:
    """Save a noisy picture of a label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = COLORS[labels] + GENERATOR.normal(0, 20, (*labels.shape, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def photos() -> None:
    """Photos with label maps; the last class is small."""
    for split, number in (("train", 4), ("val", 2)):
        for index in range(number):
            labels = np.zeros((64, 96), np.uint8)
            labels[:24, 10 * index :] = 1
            labels[50:56, 20:30] = 2
            save_photo(Path("images", split, f"{index}.jpg"), labels)
            Path("labels", split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(Path("labels", split, f"{index}.png"))


def coco() -> None:
    """Photos with COCO files of boxes; category ids are any, the second class is rare."""
    for split, number in (("train", 6), ("val", 3)):
        images, annotations = [], []
        for index in range(number):
            labels = np.zeros((64, 96), np.uint8)
            boxes = [(7, [5, 8, 30, 24])] + [(90, [50, 30, 20, 20])] * (index in (0, 1))
            for category, (x, y, width, height) in boxes:
                labels[y : y + height, x : x + width] = 1 + (category == 90)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": category,
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
            save_photo(Path("images", split, f"{index}.jpg"), labels)
            images.append({"id": index + 1, "file_name": f"{index}.jpg", "height": 64, "width": 96})
        categories = [{"id": 7, "name": "car"}, {"id": 90, "name": "sign"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        Path(f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


def folders() -> None:
    """A folder a class."""
    for split in ("train", "test"):
        for label, name in enumerate(("wren", "emu", "kiwi")):
            for index in range(2 + 2 * label):
                path = Path(split, name, f"{index}.png")
                save_photo(path, np.full((40, 40), label, np.uint8))


if __name__ == "__main__":
    {"photos": photos, "coco": coco, "folders": folders}[sys.argv[1]]()
