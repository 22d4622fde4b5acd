# SPDX-License-Identifier: Apache-2.0
"""The weighted and balanced cross-entropy and its gradient, number by number in plain Python."""

import math
from collections.abc import Sequence


def weighted_balanced_cross_entropy(
    rows: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    weight: Sequence[float] | None = None,
    prior: Sequence[float] | None = None,
    ignore: int | None = None,
    weighted_mean: bool = True,
) -> tuple[float, list[list[float]]]:
    """The loss of S samples, and its derivatives by their logits.

        L = sum_i w_yi l_i / D,  l_i = -log p_i(y_i),  p_i(j) = F_j exp(z_ij) / sum_k F_k exp(z_ik)
        dL / dz_ij = w_yi (p_i(j) - [j = y_i]) / D,    D = sum_i w_yi, or the number of samples

    Args:
        rows: (S, K) logits.
        labels: (S,), 0..K-1 or ``ignore``.
        weight, prior: (K,) w and F; None for 1.
        ignore: label of samples that do not count.
        weighted_mean: what D is.
    """
    K = len(rows[0])
    weight, prior = weight or [1.0] * K, prior or [1.0] * K
    total = norm = 0.0
    gradient = []
    for row, y in zip(rows, labels, strict=True):
        if y == ignore:
            gradient.append([0.0] * K)
            continue
        terms = [f * math.exp(z) for f, z in zip(prior, row, strict=True)]
        shares = [term / sum(terms) for term in terms]
        total -= weight[y] * math.log(shares[y])
        norm += weight[y] if weighted_mean else 1
        gradient.append([weight[y] * (p - (j == y)) for j, p in enumerate(shares)])
    return total / norm, [[g / norm for g in row] for row in gradient]
