# SPDX-License-Identifier: Apache-2.0
"""The relation of IoU and pixel accuracy, as pure functions.

Shapes: K classes.
"""

import numpy as np
import numpy.typing as npt


def iou_of_accuracy(accuracy: npt.ArrayLike, ratio: float) -> np.ndarray:
    """IoU of a class by its accuracy: Eq. 3 (17) of the Region Rebalance paper, 1/IoU = 1/Acc + b.

    Args:
        accuracy: any shape, fractions in 0..1; 0 gives 0.
        ratio: b = FP/TP, false positives for each true positive, >= 0.

    Returns:
        Fractions of that shape.
    """
    acc = np.asarray(accuracy, dtype=np.float64)
    # 1 / (1/Acc + b), also for 0.
    return acc / (1 + ratio * acc)


def false_positive_ratio(confusion: npt.ArrayLike) -> np.ndarray:
    """False positives for each true positive of each class, b = FP/TP.

    Args:
        confusion: (K, K) pixels, rows = ground truth, columns = prediction.

    Returns:
        (K,) float64 >= 0; ``inf`` for a class that is only predicted wrongly, NaN for one that is
        never predicted.
    """
    counts = np.asarray(confusion)
    hits = counts.diagonal()
    with np.errstate(divide="ignore", invalid="ignore"):
        return (counts.sum(axis=0) - hits) / hits.astype(np.float64)
