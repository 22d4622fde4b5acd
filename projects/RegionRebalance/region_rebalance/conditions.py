# SPDX-License-Identifier: Apache-2.0
r"""Remark 1: whether more accuracy of a class is more IoU, from two confusion matrices.

For a class y of a test set, before and after rebalancing (the latter with r)::

    n_y   pixels of its ground truth, TP + FN: the same before and after
    FP    pixels of other classes that are predicted as y
    Acc   TP / n_y
    IoU   TP / (n_y + FP)
    K     relative gain of accuracy: Acc_r = (1 + K) Acc, so that TP_r = (1 + K) TP

If K >= 0, then IoU_r >= IoU is guaranteed by, and by no less than,

.. math::

    \mathrm{FP}_r - (1 + K) \, \mathrm{FP} \le K n_y

The remark speaks of classes whose accuracy does not fall and that have an accuracy to begin with:
for others, and for classes without ground truth, it says nothing. n_y counts the pixels that Acc
and IoU are taken from, those of the test set (Eq. 16: TP + FN).

Shape alphabet:
    K: classes (and the gain of one class, as in the paper)
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def iou_conditions(baseline: npt.ArrayLike, rebalanced: npt.ArrayLike) -> dict[str, np.ndarray]:
    """Every term of Remark 1, for each class.

    Args:
        baseline: (K, K) pixels before, rows = ground truth, columns = prediction.
        rebalanced: (K, K) pixels after, on the same test set.

    Returns:
        (K,) arrays:
        ``pixels``, int64: n_y;
        ``false_positives``, ``false_positives_after``, int64: FP and FP_r;
        ``gain``, float64: K; NaN where the baseline has no accuracy;
        ``left``, ``right``, float64: the two sides, in pixels; NaN alike;
        ``applies``, bool: the remark speaks of this class, TP > 0 and K >= 0;
        ``holds``, bool: it applies, and left <= right, compared without rounding;
        ``iou``, ``iou_after``, float64 in 0..1: NaN for a class without ground truth;
        ``rose``, bool: IoU_r > IoU.

    Raises:
        ValueError: the matrices are not square, not of one size, not of counts, or not of the same
            ground truth.
    """
    before, after = _counts(baseline), _counts(rebalanced)
    pixels = before.sum(axis=1)
    if before.shape != after.shape or (pixels != after.sum(axis=1)).any():
        raise ValueError(
            "the two confusion matrices are not of the same ground truth: evaluate both runs on "
            "one test set"
        )
    hits, hits_after = before.diagonal(), after.diagonal()
    false, false_after = before.sum(axis=0) - hits, after.sum(axis=0) - hits_after
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(hits > 0, hits_after / hits - 1, np.nan)
        # Quotients of integers below 2^53 round alike: what is larger after rounding is larger.
        iou = np.where(pixels > 0, hits / (pixels + false), np.nan)
        iou_after = np.where(pixels > 0, hits_after / (pixels + false_after), np.nan)
    applies = (hits > 0) & (hits_after >= hits)
    # Both sides times TP, in Python's integers: products of pixels exceed 64 bits.
    n, tp, tp_r, fp, fp_r = (
        values.astype(object) for values in (pixels, hits, hits_after, false, false_after)
    )
    satisfied = (tp * fp_r - tp_r * fp <= (tp_r - tp) * n).astype(bool)
    return {
        "pixels": pixels,
        "false_positives": false,
        "false_positives_after": false_after,
        "gain": gain,
        "left": false_after - (1 + gain) * false,
        "right": gain * pixels,
        "applies": applies,
        "holds": applies & satisfied,
        "iou": iou,
        "iou_after": iou_after,
        "rose": iou_after > iou,
    }


def summarize_conditions(conditions: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Count the classes.

    Args:
        conditions: of :func:`iou_conditions`.

    Returns:
        ``classes`` with ground truth; ``applies``; of those ``holds`` and ``violated``; and
        ``rose_though_violated``, which the remark says is 0.
    """
    applies, holds, rose = (conditions[key] for key in ("applies", "holds", "rose"))
    violated = applies & ~holds
    return {
        "classes": int((conditions["pixels"] > 0).sum()),
        "applies": int(applies.sum()),
        "holds": int(holds.sum()),
        "violated": int(violated.sum()),
        "rose_though_violated": int((violated & rose).sum()),
    }


def compare_violations(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Count the classes in which one method violates the condition and the other one does not.

    A class whose accuracy falls does not violate it: the remark says nothing of it.

    Args:
        first: :func:`iou_conditions` of a method, such as pixel rebalancing.
        second: of another one, over the same baseline.

    Returns:
        ``first_only``, ``second_only``, ``both`` and ``neither``, which sum up to K.
    """
    one, other = (c["applies"] & ~c["holds"] for c in (first, second))
    return {
        "first_only": int((one & ~other).sum()),
        "second_only": int((~one & other).sum()),
        "both": int((one & other).sum()),
        "neither": int((~one & ~other).sum()),
    }


def _counts(confusion: npt.ArrayLike) -> np.ndarray:
    counts = np.asarray(confusion)
    square = counts.ndim == 2 and counts.shape[0] == counts.shape[1]
    if not square or not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
        raise ValueError(
            "expected a (K, K) confusion matrix of counts >= 0, got shape "
            f"{counts.shape} of {counts.dtype}"
        )
    return counts.astype(np.int64)
