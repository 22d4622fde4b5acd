"""From matched detections to average precision: per category, fixed and pooled.

Shapes: D detections of the whole set, K categories, R = 101 recalls, C curves; A = 4 ranges of
areas, T = 10 IoU thresholds and B bytes as in :mod:`longtail.evaluation.lvis.matching`.

Precisions lie in [0, 1] and are NaN where a category has no annotation to be found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from longtail.evaluation.lvis.annotations import GroundTruth
from longtail.evaluation.lvis.matching import (
    AREA_NAMES,
    AREA_RANGES,
    IOU_THRESHOLDS,
    NUM_BYTES,
    outside_area_ranges,
    unpack,
)

RECALLS = np.linspace(0, 1, 101)
# "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details", section 4.
MAX_DETECTIONS_PER_CATEGORY = 10_000
_EPSILON = np.spacing(1)


@dataclass(frozen=True)
class Matches:
    """What is kept of D detections once they are matched: 13 bytes, and 10 more a task.

    Attributes:
        image: (D,) int32 image indices.
        category: (D,) int32 category indices.
        score: (D,) float.
        in_image_limit: (D,) bool, among the best of its image.
        true_positive, false_positive: by task, (D, B) uint8 bits.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    in_image_limit: np.ndarray
    true_positive: dict[str, np.ndarray]
    false_positive: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: np.ndarray) -> "Matches":
        """Those that a (D,) bool mask or an array of indices selects."""
        return Matches(
            self.image[index],
            self.category[index],
            self.score[index],
            self.in_image_limit[index],
            {task: bits[index] for task, bits in self.true_positive.items()},
            {task: bits[index] for task, bits in self.false_positive.items()},
        )


def join_matches(parts: Sequence[Matches], tasks: Iterable[str]) -> Matches:
    """All detections of ``parts``; where a part has no bits for a task they are zero.

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
    """By category, then falling score, then image; what still ties keeps its order."""
    return matches[np.lexsort((matches.image, -matches.score, matches.category))]


def in_category_limit(matches: Matches) -> np.ndarray:
    """(D,) bool: which of the sorted detections are among the best of their category."""
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


def count_ground_truth(images: Iterable[GroundTruth], num_categories: int) -> np.ndarray:
    """(K, A) annotations that are to be found: not ignored, and in the range of areas."""
    counts = np.zeros((num_categories, len(AREA_RANGES)), np.int64)
    for truth in images:
        wanted = ~(truth.ignored | outside_area_ranges(truth.area))
        for area in range(len(AREA_RANGES)):
            np.add.at(counts[:, area], truth.category[wanted[area]], 1)
    return counts


def precision_at_recalls(
    true_positive: np.ndarray, false_positive: np.ndarray, num_gt: np.ndarray
) -> np.ndarray:
    """Precision-recall curves, made to fall: at each recall the best precision from there on.

    Args:
        true_positive, false_positive: (C, D) bool by falling score.
        num_gt: (C,) annotations to be found.

    Returns:
        (C, R); 0 at recalls that are not reached, NaN where there is nothing to be found.
    """
    curves = np.full((len(num_gt), len(RECALLS)), np.nan)
    for curve, tp, fp, total in zip(curves, true_positive, false_positive, num_gt, strict=True):
        if total == 0:
            continue
        # Precision only rises, and recall only moves, at true positives: no other point matters.
        places = np.flatnonzero(tp)
        right = np.arange(1, len(places) + 1, dtype=np.float64)
        wrong = np.cumsum(fp)[places]
        precision = np.maximum.accumulate((right / (wrong + right + _EPSILON))[::-1])[::-1]
        first = np.searchsorted(right / total, RECALLS, side="left")
        reached = first < len(precision)
        curve[:] = 0
        curve[reached] = precision[first[reached]]
    return curves


def category_precision(
    matches: Matches, task: str, num_gt: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """The precision-recall curves of every category.

    Args:
        matches: sorted.
        task: ``"bbox"`` or ``"segm"``.
        num_gt: (K, A) annotations to be found.
        chosen: (D,) bool, the detections that count.

    Returns:
        (T, R, K, A) precision.
    """
    num_categories, num_areas = num_gt.shape
    num_thresholds = len(IOU_THRESHOLDS)
    precision = np.full((num_thresholds, len(RECALLS), num_categories, num_areas), np.nan)
    bounds = np.searchsorted(matches.category, np.arange(num_categories + 1))
    for k in np.flatnonzero(num_gt.any(axis=1)):
        rows = np.flatnonzero(chosen[bounds[k] : bounds[k + 1]]) + bounds[k]
        curves = precision_at_recalls(
            unpack(matches.true_positive[task][rows]),
            unpack(matches.false_positive[task][rows]),
            np.repeat(num_gt[k], num_thresholds),
        )
        curves = curves.reshape(num_areas, num_thresholds, len(RECALLS))
        precision[:, :, k] = curves.transpose(1, 2, 0)
    return precision


def pooled_precision(
    matches: Matches,
    task: str,
    num_gt: np.ndarray,
    chosen: np.ndarray,
    categories: np.ndarray,
) -> np.ndarray:
    """The precision-recall curves of several categories taken as one, over all areas.

    Args:
        matches: sorted; of equal scores the first image's counts as higher, then the first
            category's.
        task, num_gt, chosen: as for :func:`category_precision`.
        categories: indices of those that are pooled.

    Returns:
        (T, R) precision.
    """
    rows = np.flatnonzero(chosen & np.isin(matches.category, categories))
    rows = rows[np.lexsort((matches.image[rows], -matches.score[rows]))]
    total = num_gt[categories, 0].sum()
    curves = []
    for threshold in range(len(IOU_THRESHOLDS)):
        # One bit at a time: all of them would be 40 bytes a detection.
        byte, bit = divmod(threshold, 8)
        curves.append(
            precision_at_recalls(
                (matches.true_positive[task][rows, byte] >> bit & 1)[None].astype(bool),
                (matches.false_positive[task][rows, byte] >> bit & 1)[None].astype(bool),
                np.array([total]),
            )[0]
        )
    return np.array(curves)


def summarize(precision: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """LVIS's nine figures.

    Args:
        precision: (T, R, K, A).
        groups: category indices by ``"r"``, ``"c"``, ``"f"``.

    Returns:
        ``AP, AP50, AP75, APs, APm, APl, APr, APc, APf`` in [0, 1]; NaN where no category has an
        annotation to be found.
    """
    every = precision[..., 0]
    figures = {
        "AP": mean(every),
        "AP50": mean(every[IOU_THRESHOLDS == 0.5]),
        "AP75": mean(every[IOU_THRESHOLDS == 0.75]),
    }
    for area, name in enumerate(AREA_NAMES[1:], start=1):
        figures[f"AP{name[0]}"] = mean(precision[..., area])
    figures.update({f"AP{name}": mean(every[..., group]) for name, group in groups.items()})
    return figures


def mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where there is nothing else."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def in_percent(figures: Mapping[str, float], ending: str = "") -> dict[str, float]:
    """The figures times 100, each name with ``ending`` (such as ``"_fixed"``)."""
    return {f"{name}{ending}": 100 * value for name, value in figures.items()}
