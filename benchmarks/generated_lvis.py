# SPDX-License-Identifier: Apache-2.0
"""Annotations and detections on LVIS's scale, for ``lvis_evaluator.py``.

The annotations resemble LVIS v1's: a long tail of categories, about 12 instances an image in
polygons, 10 categories verified to be absent, one that is not exhaustively annotated. Of an
image's detections a share is of categories in the image (half of them near an annotation), the
others are of any category by the same long tail, as a detector with a low threshold gives them.
Masks are those of ellipses.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

HEIGHT, WIDTH = 480, 640
CORNERS = 24
NEGATIVES = 10
INSTANCES = 12
SHARE_IN_IMAGE = 0.4


def ellipse(box: np.ndarray) -> np.ndarray:
    """(2 * CORNERS,) polygon of the ellipse in a box x, y, width, height."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    x = box[0] + box[2] / 2 * (1 + np.cos(angle))
    y = box[1] + box[3] / 2 * (1 + np.sin(angle))
    return np.stack([x, y], axis=1).ravel()


def generate(folder: str, num_images: int, num_dets: int, num_categories: int) -> dict[str, Any]:
    """Write ``annotations.json`` and ``detections.npz``; returns how much there is."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, num_categories + 1)
    share /= share.sum()
    images, annotations = [], []
    columns: dict[str, list] = {"category": [], "score": [], "box": []}
    counts, lengths = [], []
    for n in range(num_images):
        classes = np.unique(rng.choice(num_categories, 4, p=share))
        instances = rng.choice(classes, rng.poisson(INSTANCES))
        boxes = random_boxes(rng, len(instances))
        absent = np.setdiff1d(rng.choice(num_categories, NEGATIVES, replace=False), classes)
        images.append(
            {
                "id": n + 1,
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": (absent + 1).tolist(),
                "not_exhaustive_category_ids": (classes[:1] + 1).tolist() if n % 3 == 0 else [],
            }
        )
        for category, box in zip(instances, boxes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": n + 1,
                    "category_id": int(category) + 1,
                    "bbox": box.tolist(),
                    "area": float(np.pi / 4 * box[2] * box[3]),
                    "segmentation": [ellipse(box).round(2).tolist()],
                }
            )
        category, box = detections(rng, num_dets, instances, boxes, share)
        polygons = [ellipse(b) for b in box]
        encoded = [rle["counts"] for rle in mask_util.frPyObjects(polygons, HEIGHT, WIDTH)]
        lengths.append([len(text) for text in encoded])
        counts.append(b"".join(encoded))
        columns["category"].append(category)
        columns["score"].append(rng.random(num_dets).astype(np.float32) ** 3)
        columns["box"].append(box)
    frequency = np.repeat(["f", "c", "r"], -(-num_categories // 3))[:num_categories]
    categories = [
        {"id": c + 1, "name": f"category {c}", "frequency": str(f), "image_count": 1}
        for c, f in enumerate(frequency)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (Path(folder) / "annotations.json").write_text(json.dumps(content))
    np.savez(
        Path(folder) / "detections.npz",
        lengths=np.array(lengths, np.int32),
        counts=np.frombuffer(b"".join(counts), np.uint8),
        **{name: np.array(column) for name, column in columns.items()},
    )
    return {"annotations": len(annotations), "bytes of RLE a mask": float(np.mean(lengths))}


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """(n, 4) boxes x, y, width, height of all sizes inside the image."""
    size = np.exp(rng.uniform(np.log(12), np.log(300), (number, 2)))
    corner = rng.random((number, 2)) * ([WIDTH, HEIGHT] - size)
    return np.concatenate([corner, size], axis=1).round(2)


def detections(
    rng: np.random.Generator,
    number: int,
    instances: np.ndarray,
    boxes: np.ndarray,
    share: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) categories and (n, 4) float32 boxes of one image's detections."""
    category = rng.choice(len(share), number, p=share)
    box = random_boxes(rng, number)
    if len(instances):
        inside = np.flatnonzero(rng.random(number) < SHARE_IN_IMAGE)
        target = rng.integers(len(instances), size=len(inside))
        category[inside] = instances[target]
        near = rng.random(len(inside)) < 0.5
        jitter = rng.normal(0, 0.15, (int(near.sum()), 4)) * np.tile(boxes[target[near], 2:], 2)
        box[inside[near]] = boxes[target[near]] + jitter
    box[:, 2:] = box[:, 2:].clip(4)
    box[:, :2] = box[:, :2].clip(0, [WIDTH - 5, HEIGHT - 5])
    box[:, 2:] = np.minimum(box[:, 2:], [WIDTH, HEIGHT] - box[:, :2])
    return category.astype(np.int64), box.astype(np.float32)


class Stored:
    """The generated detections, as arrays in memory."""

    def __init__(self, folder: str) -> None:
        """Load the detections, masks still encoded.

        Args:
            folder: where :func:`generate` wrote them.
        """
        with np.load(Path(folder) / "detections.npz") as data:
            self.category, self.score, self.box = data["category"], data["score"], data["box"]
            self.ends = data["lengths"].cumsum(dtype=np.int64).reshape(data["lengths"].shape)
            self.counts = data["counts"].tobytes()

    def masks(self, image: int) -> list[dict[str, Any]]:
        """RLEs of one image."""
        start = 0 if image == 0 else int(self.ends[image - 1, -1])
        bounds = [start, *self.ends[image].tolist()]
        return [{"size": [HEIGHT, WIDTH], "counts": self.counts[a:b]} for a, b in pairwise(bounds)]
