# SPDX-License-Identifier: Apache-2.0
"""Small random LVIS data with everything that its evaluation has rules for."""

import json
import uuid
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

H, W = 120, 150
NUM_CATEGORIES = 12
MODEL_CLASSES = list(range(NUM_CATEGORIES))


def random_box(rng):
    """x0, y0, x1, y1 on a coarse grid, so that IoUs tie; small, medium and large ones."""
    width, height = rng.choice([10, 20, 40, 60, 110], 2)
    x0, y0 = rng.integers(0, (W - width) // 5 + 1) * 5, rng.integers(0, (H - height) // 5 + 1) * 5
    return np.array([x0, y0, x0 + width, y0 + height], np.float64)


def box_mask(box, cut):
    """(H, W) bool: the box, or with ``cut`` without its lower right quarter."""
    x0, y0, x1, y1 = np.round(box).astype(int)
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    if cut:
        mask[(y0 + y1) // 2 : y1, (x0 + x1) // 2 : x1] = False
    return mask


def segmentation(box, kind):
    x0, y0, x1, y1 = box.tolist()
    if kind == "polygon":
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if kind == "two polygons":
        half = (x0 + x1) / 2
        return [[x0, y0, half, y0, half, y1], [half, y0, x1, y0, x1, y1, half, y1]]
    mask = np.asfortranarray(box_mask(box, cut=True), np.uint8)
    if kind == "rle":
        rle = mask_util.encode(mask)
        return {"size": [H, W], "counts": rle["counts"].decode()}
    flat = mask.T.flatten()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return {"size": [H, W], "counts": counts if flat[0] == 0 else [0, *counts]}


def make_annotations(seed, num_images=12):
    """LVIS's JSON as a dict. Category 12 is nowhere, 11 only ignored, 10 only verified absent."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for n in range(num_images):
        present = rng.choice(np.arange(1, 10), 4, replace=False).tolist()
        absent = [c for c in range(1, 11) if c not in present]
        images.append(
            {
                "id": 1000 - 7 * n,  # not in the order of the ids
                "height": H,
                "width": W,
                "file_name": f"{n}.jpg",
                "neg_category_ids": [10, *rng.choice(absent, 2).tolist()],
                "not_exhaustive_category_ids": rng.choice(present, 1).tolist(),
            }
        )
        if n == 3:
            continue  # an image without annotations
        for category in [*present, present[0], present[0], present[1], *([11] if n < 2 else [])]:
            box = random_box(rng)
            kind = ["polygon", "two polygons", "rle", "uncompressed"][rng.integers(4)]
            annotation = {
                "image_id": images[-1]["id"],
                "category_id": category,
                "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                "area": float(np.prod(box[2:] - box[:2])) * rng.choice([1.0, 0.7]),
                "segmentation": segmentation(box, kind),
            }
            if category == 11 or rng.random() < 0.1:
                annotation["ignore"] = 1
            if rng.random() < 0.05:
                annotation["area"] = 0  # lvis-api leaves it out
            annotations.append(annotation)
    order = rng.permutation(len(annotations))
    annotations = [{**annotations[i], "id": n + 1} for n, i in enumerate(order)]
    frequencies = "rrrcccffffrc"
    categories = [
        {"id": c + 1, "name": f"name{c}", "frequency": f, "image_count": 3 * c}
        for c, f in enumerate(frequencies)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": categories[::-1],
    }


def make_predictions(content, seed, per_image=60, many=(0,), empty=(2,)):
    """(inputs, outputs) of a model: near misses of annotations and noise, with ties."""
    rng = np.random.default_rng(seed)
    inputs, outputs = [], []
    for n, image in enumerate(content["images"]):
        mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        count = 0 if n in empty else 400 if n in many else per_image
        boxes, classes = [], []
        for _ in range(count):
            if mine and rng.random() < 0.6:
                target = mine[rng.integers(len(mine))]
                x, y, w, h = target["bbox"]
                box = np.array([x, y, x + w, y + h]) + rng.integers(-1, 2, 4) * rng.choice([0, 4])
                category = target["category_id"] if rng.random() < 0.8 else rng.integers(1, 13)
            else:
                box, category = random_box(rng), rng.integers(1, 13)
            boxes.append(np.clip(box, 0, [W, H, W, H]))
            classes.append(int(category) - 1)
        outputs.append({"instances": make_instances(rng, boxes, classes)})
        inputs.append({"image_id": image["id"], "height": H, "width": W})
    return inputs, outputs


def make_instances(rng, boxes, classes):
    masks = [box_mask(box, cut=rng.random() < 0.3) for box in boxes]
    if masks:
        masks[-1][:] = False  # an empty mask
    return Instances(
        (H, W),
        pred_boxes=Boxes(torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32)),
        scores=torch.tensor(rng.integers(1, 30, len(boxes)) / 30, dtype=torch.float32),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        pred_masks=torch.tensor(np.array(masks, bool).reshape(-1, H, W)),
    )


def register(folder: Path, content, **metadata) -> str:
    """Write the annotations and register them; returns the name."""
    name = f"test_lvis_{uuid.uuid4().hex}"
    path = folder / f"{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(json_file=str(path), evaluator_type="lvis", **metadata)
    return name


def run(evaluator, inputs, outputs):
    evaluator.reset()
    for start in range(0, len(inputs), 2):
        evaluator.process(inputs[start : start + 2], outputs[start : start + 2])
    return evaluator.evaluate()
