# SPDX-License-Identifier: Apache-2.0
"""COCO's JSON as annotation tools write it: nothing of LVIS, ids of any order, keys left out."""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from longtail.data.datasets.coco import register_coco_json

SIZE = 64
# The ids are neither in the order of the names nor from 1 on.
IDS = {"red": 30, "green": 0, "blue": 7}


def image(number: int, **more: Any) -> dict:
    return {"id": number, "file_name": f"{number}.png", "height": SIZE, "width": SIZE, **more}


def box(number: int, image_id: int, name: str, bbox: Sequence[float], **more: Any) -> dict:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": IDS[name],
        "bbox": list(bbox),
        **more,
    }


def document(images: Sequence[dict], annotations: Sequence[dict]) -> dict:
    categories = [{"id": number, "name": name} for name, number in IDS.items()]
    return {"images": [*images], "annotations": [*annotations], "categories": categories}


def register(folder: Path, content: dict, **options: Any) -> str:
    """Write a document and register it, classes red, green, blue, under a name of its own."""
    path = folder / f"{uuid.uuid4().hex}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    register_coco_json(path.stem, path, folder, **{"classes": list(IDS), **options})
    return path.stem


def detections(found: Sequence[tuple[Sequence[float], int, float]], size: int = SIZE) -> Instances:
    """Boxes (x, y, w, h), classes and scores as a model gives them."""
    instances = Instances((size, size))
    corners = [[x, y, x + w, y + h] for (x, y, w, h), _, _ in found]
    instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([c for _, c, _ in found], dtype=torch.int64)
    instances.scores = torch.tensor([score for *_, score in found], dtype=torch.float32)
    return instances


def evaluate(evaluator: Any, found: dict[int, Instances]) -> dict[str, dict[str, float]]:
    """Let an evaluator see the detections of each image."""
    evaluator.reset()
    for number, instances in found.items():
        evaluator.process([{"image_id": number}], [{"instances": instances}])
    return evaluator.evaluate()


def random_scene(seed: int = 0, images: int = 12) -> tuple[list, list, dict[int, Instances]]:
    """Images, annotations, and detections that are near some of them."""
    generator = np.random.default_rng(seed)
    annotations, found = [], {}
    for number in range(1, images + 1):
        own = []
        for _ in range(generator.integers(0, 5)):
            name = list(IDS)[min(int(generator.exponential(0.8)), 2)]
            x, y = generator.uniform(0, 40, 2)
            w, h = generator.uniform(6, 24, 2)
            bbox = [round(float(v), 2) for v in (x, y, w, h)]
            annotations.append(box(len(annotations) + 1, number, name, bbox))
            shifted = generator.normal(bbox, 1.5)
            own.append((np.maximum(shifted, 1), list(IDS).index(name), float(generator.random())))
        own.append((generator.uniform(5, 20, 4), int(generator.integers(3)), 0.5))
        found[number] = detections(own)
    return [image(n) for n in found], annotations, found
