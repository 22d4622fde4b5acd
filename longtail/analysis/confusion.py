# SPDX-License-Identifier: Apache-2.0
"""Which classes are taken for which others, as pure functions.

Shapes: K classes, G groups of them. A confusion matrix is (K, K) counts of pixels or images, with
the ground truth class as row and the predicted class as column. It may be sparse: of thousands of
classes a dense one takes hundreds of megabytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

Confusion = npt.ArrayLike | scipy.sparse.coo_array


def truth_percent(confusion: npt.ArrayLike) -> np.ndarray:
    """A confusion matrix in percent of each class's ground truth: every row sums up to 100.

    Args:
        confusion: (K, K) counts, or (G, G) of groups.

    Returns:
        (K, K) float64; a row of NaN for a class without ground truth.

    Raises:
        ValueError: the matrix is not square.
    """
    counts = _square(confusion).toarray()
    total = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    return 100 * np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def confused_pairs(confusion: Confusion, number: int) -> list[dict[str, Any]]:
    """The pairs of classes that are confused most.

    They are ranked by their share of the ground truth of the class, which counts rare classes as
    much as frequent ones, as mIoU and mean accuracy do; equal shares by count.

    Args:
        confusion: (K, K) counts.
        number: how many pairs, at most; pairs that do not occur are left out.

    Returns:
        For each pair the class index ``truth``, the other one it was ``predicted`` as, ``count``
        and ``percent`` of the ground truth of ``truth``; most confused first.

    Raises:
        ValueError: the matrix is not square.
    """
    counts = _square(confusion)
    wrong = (counts.row != counts.col) & (counts.data > 0)
    truth, predicted, count = (values[wrong] for values in (counts.row, counts.col, counts.data))
    percent = 100 * count / counts.sum(axis=1)[truth]
    ranked = np.lexsort((predicted, truth, -count, -percent))[:number]
    return [
        {
            "truth": int(truth[place]),
            "predicted": int(predicted[place]),
            "count": int(count[place]),
            "percent": float(percent[place]),
        }
        for place in ranked
    ]


def arranged(confusion: Confusion, order: npt.ArrayLike, most: int) -> np.ndarray:
    """A confusion matrix to be drawn: with the classes in another order, and not too large.

    Args:
        confusion: (K, K) counts.
        order: the K class indices in their new order.
        most: rows; of more classes, neighbours in that order are added up.

    Returns:
        (M, M) int64 counts, M the smaller one of K and ``most``.

    Raises:
        ValueError: the matrix is not square.
    """
    counts = _square(confusion)
    K = counts.shape[0]
    size = min(K, most)
    place = np.empty(K, np.int64)
    place[np.asarray(order)] = np.arange(K) * size // K
    drawn = np.zeros((size, size), np.int64)
    np.add.at(drawn, (place[counts.row], place[counts.col]), counts.data)
    return drawn


def group_confusion(
    confusion: Confusion, groups: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Where the ground truth of groups of classes goes: is the tail taken for the head?

    Args:
        confusion: (K, K) counts.
        groups: class indices by group, each class in one of them.

    Returns:
        In percent of the ground truth of all classes of a group, NaN for a group without any:
        ``right`` (G,), predicted as the very class; ``predicted`` (G, G), as a wrong class of the
        group of the column. ``right`` and the row of ``predicted`` sum up to 100 if every class
        is in a group.

    Raises:
        ValueError: the matrix is not square, or a group names a class that there is not.
    """
    counts = _square(confusion)
    K = counts.shape[0]
    for name, classes in groups.items():
        if any(not 0 <= index < K for index in classes):
            raise ValueError(
                f"group {name!r} names the classes {list(classes)}, expected 0..{K - 1}"
            )
    member = np.array([np.isin(np.arange(K), list(classes)) for classes in groups.values()])
    member = member.reshape(len(groups), K).astype(np.int64)
    hits = counts.diagonal()
    wrong = member @ counts @ member.T - (member * hits) @ member.T
    right, total = member @ hits, member @ counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return {"right": 100 * right / total, "predicted": 100 * wrong / total[:, None]}


def _square(confusion: Confusion) -> scipy.sparse.coo_array:
    counts = confusion if scipy.sparse.issparse(confusion) else np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"expected a square (K, K) confusion matrix, got shape {counts.shape}")
    # Every pair once.
    return scipy.sparse.csr_array(counts).tocoo()
