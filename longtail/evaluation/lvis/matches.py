# SPDX-License-Identifier: Apache-2.0
"""Matched detections: packed into few bytes, joined, sorted, and pruned.

Shapes: D detections of any number of images; B = 5 bytes, the A * T bits of a detection (A = 4
ranges of areas, T = 10 IoU thresholds), bit a * T + t in little order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from longtail.evaluation.lvis.metrics import AREA_RANGES, IOU_THRESHOLDS

NUM_CELLS = len(AREA_RANGES) * len(IOU_THRESHOLDS)
NUM_BYTES = (NUM_CELLS + 7) // 8
# "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details", section 4.
MAX_DETECTIONS_PER_CATEGORY = 10_000


@dataclass(frozen=True)
class Matches:
    """D detections once they are matched, in 13 bytes each, and 10 more a task.

    Attributes:
        image: (D,) int32 image indices.
        category: (D,) int32 category indices.
        score: (D,) float.
        in_image_limit: (D,) bool, among the best of its image.
        true_positive: by task, (D, B) uint8 bits.
        false_positive: by task, (D, B) uint8 bits.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    in_image_limit: np.ndarray
    true_positive: dict[str, np.ndarray]
    false_positive: dict[str, np.ndarray]

    def __len__(self) -> int:
        """D."""
        return len(self.score)

    def __getitem__(self, index: np.ndarray) -> "Matches":
        """Select detections by a (D,) bool mask or by an array of indices."""
        return Matches(
            self.image[index],
            self.category[index],
            self.score[index],
            self.in_image_limit[index],
            {task: bits[index] for task, bits in self.true_positive.items()},
            {task: bits[index] for task, bits in self.false_positive.items()},
        )


def pack_bits(flags: np.ndarray) -> np.ndarray:
    """Pack (A, T, D) bool into (D, B) bytes."""
    flat = np.ascontiguousarray(flags.reshape(NUM_CELLS, -1).T)
    return np.packbits(flat, axis=1, bitorder="little")


def unpack_bits(bits: np.ndarray) -> np.ndarray:
    """Unpack (D, B) bytes into (A * T, D) bool, the T thresholds of the first range first."""
    return np.unpackbits(bits, axis=1, count=NUM_CELLS, bitorder="little").T.astype(bool)


def join_matches(parts: Sequence[Matches], tasks: Iterable[str]) -> Matches:
    """Join the detections of several parts; where a part has no bits for a task they are zero.

    Args:
        parts: of any number of images.
        tasks: ``"bbox"``, ``"segm"``.
    """

    def join_bits(name: str, task: str) -> np.ndarray:
        def missing(size: int) -> np.ndarray:
            return np.zeros((size, NUM_BYTES), np.uint8)

        bits = [getattr(part, name).get(task, missing(len(part))) for part in parts]
        return np.concatenate([missing(0), *bits])

    plain = [field.name for field in fields(Matches)][:4]
    types = (np.int32, np.int32, np.float32, bool)
    columns = [
        np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)])
        for name, dtype in zip(plain, types, strict=True)
    ]
    return Matches(
        *columns,
        {task: join_bits("true_positive", task) for task in tasks},
        {task: join_bits("false_positive", task) for task in tasks},
    )


def sort_matches(matches: Matches) -> Matches:
    """Sort by category, then falling score, then image; what still ties keeps its order."""
    return matches[np.lexsort((matches.image, -matches.score, matches.category))]


def in_category_limit(matches: Matches) -> np.ndarray:
    """Tell which sorted detections are among the best 10,000 of their category.

    Returns:
        (D,) bool.
    """
    starts = np.flatnonzero(np.diff(matches.category, prepend=-1))
    first = np.repeat(starts, np.diff(starts, append=len(matches)))
    return np.arange(len(matches)) - first < MAX_DETECTIONS_PER_CATEGORY


def prune_matches(matches: Matches, keep_image_limit: bool) -> Matches:
    """Drop what cannot be among a category's best, whatever detections are still to come.

    Args:
        matches: in the order of the images' processing.
        keep_image_limit: keep the best of each image all the same.
    """
    matches = sort_matches(matches)
    keep = in_category_limit(matches)
    return matches[keep | matches.in_image_limit if keep_image_limit else keep]
