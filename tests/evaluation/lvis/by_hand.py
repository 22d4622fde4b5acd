# SPDX-License-Identifier: Apache-2.0
"""Small ground truths and matches that tests write down by hand."""

import numpy as np

from longtail.evaluation.lvis.annotations import GroundTruth, LVISAnnotations
from longtail.evaluation.lvis.matches import Matches, pack_bits

# 0.5, 0.55, ..., 0.95; all, small (to 32 x 32), medium (to 96 x 96), large.
T = 10
ALL, SMALL, MEDIUM, LARGE = range(4)


def ground_truth(rows=(), negative=(), not_exhaustive=()):
    """Annotations of one image from (category, box, ignored) rows; the area is the box's."""
    boxes = np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4)
    return GroundTruth(
        category=np.array([category for category, _, _ in rows], np.int32),
        boxes=boxes,
        area=boxes[:, 2] * boxes[:, 3],
        ignored=np.array([ignored for _, _, ignored in rows], bool),
        segmentation=[[rectangle(*box)] for box in boxes],
        negative=np.array(negative, np.int32),
        not_exhaustive=np.array(not_exhaustive, np.int32),
    )


def rectangle(x, y, width, height):
    """The polygon of a box."""
    return np.array([x, y, x + width, y, x + width, y + height, x, y + height], np.float64)


def annotations(images, frequencies="rcf", size=(100, 120)):
    """A data set of such images, with the ids 10, 20, ... of images and 1, 2, ... of categories."""
    return LVISAnnotations(
        json_file="toy.json",
        category_ids=np.arange(1, len(frequencies) + 1),
        categories=[
            {
                "id": k + 1,
                "name": f"name{k}",
                "frequency": letter,
                "image_count": 5 * k,
                "instance_count": 7 * k,
            }
            for k, letter in enumerate(frequencies)
        ],
        image_ids=10 * np.arange(1, len(images) + 1),
        sizes=[size] * len(images),
        images=images,
        has_annotations=True,
    )


def matches(rows, tasks=("bbox",)):
    """Detections from (image, category, score, in image limit, verdict) rows.

    A verdict is ``"right"``, ``"wrong"`` (at every threshold and area) or ``"neither"``.
    """
    flags = {kind: np.zeros((4, T, len(rows)), bool) for kind in ("right", "wrong")}
    for n, row in enumerate(rows):
        for kind, array in flags.items():
            array[:, :, n] = row[4] == kind
    columns = list(zip(*(row[:4] for row in rows), strict=True)) or [()] * 4
    types = (np.int32, np.int32, np.float32, bool)
    return Matches(
        *(np.array(column, dtype) for column, dtype in zip(columns, types, strict=True)),
        {task: pack_bits(flags["right"]) for task in tasks},
        {task: pack_bits(flags["wrong"]) for task in tasks},
    )
