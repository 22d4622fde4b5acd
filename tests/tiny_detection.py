# SPDX-License-Identifier: Apache-2.0
"""The smallest LVIS data and the smallest Mask and Cascade R-CNN that still go through everything.

Three classes of coloured rectangles: "red" in every image, "green" in half of them, "blue" in one.
"""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from longtail.config import load_config
from longtail.data.datasets.lvis import register_lvis_instances

CLASSES = ["red", "green", "blue"]
COLORS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]], dtype=np.uint8)
SIZE = 64

DETECTOR = """\
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: ""
  DEVICE: cpu
  MASK_ON: True
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5], NORM: BN}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [24], [32], [48]], ASPECT_RATIOS: [[1.0]]}
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 60
    PRE_NMS_TOPK_TEST: 30
    POST_NMS_TOPK_TRAIN: 40
    POST_NMS_TOPK_TEST: 20
  ROI_HEADS:
    NAME: LongTailROIHeads
    IN_FEATURES: [p2, p3, p4, p5]
    NUM_CLASSES: 3
    BATCH_SIZE_PER_IMAGE: 16
    SCORE_THRESH_TEST: 0.0001
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 12, POOLER_RESOLUTION: 4}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 8, POOLER_RESOLUTION: 4}
INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 3, BASE_LR: 0.01, STEPS: []}
TEST: {DETECTIONS_PER_IMAGE: 300}
SEED: 1
"""
CASCADE = [
    "MODEL.ROI_HEADS.NAME",
    "LongTailCascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    "True",
]


def write_rectangles(folder: Path, count: int, seed: int = 0) -> Path:
    """Images with rectangles and their annotations in LVIS v1's form; returns the JSON file."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations, seen = [], [], {c: set() for c in range(3)}
    for index in range(count):
        pixels = generator.integers(90, 130, (SIZE, SIZE, 3)).astype(np.uint8)
        classes = [0] + [1] * (index % 2) + [2] * (index == 1)
        for position, label in enumerate(classes):
            width, height = generator.integers(12, 20, 2).tolist()
            x, y = int(2 + 21 * position), int(generator.integers(2, SIZE - 22))
            pixels[y : y + height, x : x + width] = COLORS[label]
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "segmentation": [corners],
                }
            )
            seen[label].add(index)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        images.append(
            {
                "id": index + 1,
                "file_name": f"{index}.png",
                "height": SIZE,
                "width": SIZE,
                "neg_category_ids": [c + 1 for c in range(3) if c not in classes],
                "not_exhaustive_category_ids": [],
            }
        )
    categories = [
        {
            "id": c + 1,
            "name": name,
            "synset": name,
            "synonyms": [name],
            "def": name,
            "frequency": "r",
            "image_count": len(seen[c]),
            "instance_count": sum(a["category_id"] == c + 1 for a in annotations),
        }
        for c, name in enumerate(CLASSES)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "lvis.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def register_rectangles(name: str, folder: Path, count: int = 4, seed: int = 0) -> str:
    """Write such images and register them under ``name``."""
    register_lvis_instances(name, write_rectangles(folder, count, seed), folder)
    return name


def detector_config(folder: Path, overrides: tuple | list = ()) -> CfgNode:
    """A small Mask R-CNN on a CPU, with pairs of keys and values replaced."""
    path = folder / "detector.yaml"
    path.write_text(DETECTOR, encoding="utf-8")
    options = ["OUTPUT_DIR", str(folder / "output"), *overrides]
    return load_config(str(path), options)


def detector_inputs(count: int = 2, seed: int = 0) -> list[dict]:
    """Random images with two annotated rectangles each, as detectron2's mapper gives them."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for _ in range(count):
        corners = torch.tensor([[4.0, 6, 24, 30], [30, 20, 58, 50]])
        instances = Instances((SIZE, SIZE))
        instances.gt_boxes = Boxes(corners)
        instances.gt_classes = torch.randint(0, 3, (2,), generator=generator)
        polygons = [[b[[0, 1, 2, 1, 2, 3, 0, 3]].numpy().astype("float64")] for b in corners]
        instances.gt_masks = PolygonMasks(polygons)
        image = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": SIZE, "width": SIZE})
    return inputs
