# SPDX-License-Identifier: Apache-2.0
"""Correlation of the accuracy of classes with their frequency, as a pure function.

Shapes: K classes.
"""

import numpy as np
import numpy.typing as npt
from scipy import stats


def frequency_correlation(accuracy: npt.ArrayLike, counts: npt.ArrayLike) -> dict[str, float]:
    """Correlate a per-class metric with the frequency of classes: Eq. 6 of Region Rebalance.

    Pearson's coefficient measures how linear the relation is, and with counts over several orders
    of magnitude hangs on the few most frequent classes; Spearman's, of the ranks, does not.

    Args:
        accuracy: (K,) metric of each class; NaN classes are left out.
        counts: (K,) how often it occurs in training: pixels, regions (images that contain it),
            images or instances.

    Returns:
        ``pearson`` and ``spearman`` in percent, -100 to 100, NaN where one of the two does not
        vary over the classes; and ``classes``, the number of classes they are taken from.

    Raises:
        ValueError: the shapes differ, or are not (K,).
    """
    y, x = (np.asarray(values, dtype=np.float64) for values in (accuracy, counts))
    if y.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            "frequency_correlation: expected accuracy and counts of shape (K,), got "
            f"{y.shape} and {x.shape}"
        )
    known = ~np.isnan(y)
    x, y = x[known], y[known]
    # scipy warns of these, and of fewer than two classes raises.
    varies = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    pearson, spearman = (
        float(100 * function(x, y).statistic) if varies else float("nan")
        for function in (stats.pearsonr, stats.spearmanr)
    )
    return {"pearson": pearson, "spearman": spearman, "classes": len(x)}
