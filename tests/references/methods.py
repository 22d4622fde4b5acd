# SPDX-License-Identifier: Apache-2.0
"""Samplers, post hoc methods, second stages and regions, written down once more in float64.

From the papers' formulas; nothing of ``longtail`` or its projects is used. Tests and
benchmarks/method_parity.py compare with them.

Shape alphabet:
    N: images, or samples
    C: channels of features
    K: classes (foreground classes in detection)
    H, W: height and width of maps of features
    h, w: height and width of label maps
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# --- samplers: the part of the draws that each image has


def by_class(
    probabilities: Mapping[int, float], images: Mapping[int, Sequence[int]], size: int
) -> list[float]:
    """P(i) = sum over c of P(c) / n_c for the images of c."""
    expected = [0.0] * size
    for c, p in probabilities.items():
        for i in images[c]:
            expected[i] += p / len(images[c])
    return expected


def power_of_images(images: Mapping[int, Sequence[int]], exponent: float) -> dict[int, float]:
    """P(c) proportional to n_c^q."""
    powers = {c: len(found) ** exponent for c, found in images.items()}
    return {c: power / sum(powers.values()) for c, power in powers.items()}


def rare_classes(shares: Mapping[int, float], temperature: float) -> dict[int, float]:
    """P(c) proportional to exp((1 - f_c) / T)."""
    powers = {c: math.exp((1 - f) / temperature) for c, f in shares.items()}
    return {c: power / sum(powers.values()) for c, power in powers.items()}


def repeats(classes: Sequence[Sequence[int]], frequency: Mapping[int, float], t: float) -> list:
    """r_i / sum r, r_i the largest max(1, sqrt(t / f_c)) of an image's classes."""
    factors = [max([1.0, *(math.sqrt(t / frequency[c]) for c in found)]) for found in classes]
    return [factor / sum(factors) for factor in factors]


# --- post hoc


def normalized_scores(x: Tensor, weight: Tensor, tau: float) -> Tensor:
    """w_j.x / |w_j|^tau, (N, K)."""
    columns = [(x * row).sum(dim=1) / (row * row).sum().sqrt() ** tau for row in weight]
    return torch.stack(columns, dim=1)


def adjusted_scores(z: Tensor, counts: Sequence[int], strength: float, *, centered=False) -> Tensor:
    """z_j - lambda log r_j; beside a background less the mean of these margins."""
    margins = [-strength * math.log(n / sum(counts)) for n in counts]
    middle = sum(margins) / len(margins) if centered else 0.0
    return torch.stack([z[:, j] + m - middle for j, m in enumerate(margins)], dim=1)


def divided_probabilities(z: Tensor, counts: Sequence[int], gamma: float) -> Tensor:
    """NorCal's, of (N, K + 1) scores: each class's over N_j^gamma, and all over their sum."""
    e = z.exp()
    divisors = torch.tensor([n**gamma for n in counts] + [1.0], dtype=torch.float64)
    divided = e / e.sum(dim=1, keepdim=True) / divisors
    return divided / divided.sum(dim=1, keepdim=True)


def class_moments(z: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each column."""
    columns = z.T.tolist()
    means = [sum(column) / len(column) for column in columns]
    squares = [
        sum((v - m) ** 2 for v in column) / len(column)
        for column, m in zip(columns, means, strict=True)
    ]
    return means, [math.sqrt(square) for square in squares]


def centered_nearest_means(x: Tensor, features: Tensor, labels: Tensor, count: int) -> Tensor:
    """-|f(x) - mu_j|^2, (N, K), f a feature less the mean of all training features, of length 1."""

    def transformed(samples: Tensor) -> Tensor:
        y = samples - features.mean(dim=0)
        return y / (y * y).sum(dim=1, keepdim=True).sqrt()

    of_all = transformed(features)
    means = [of_all[labels == k].sum(dim=0) / (labels == k).sum() for k in range(count)]
    return torch.stack([-((transformed(x) - mean) ** 2).sum(dim=1) for mean in means], dim=1)


def shared_among_foreground(z: Tensor, nearest: Tensor) -> Tensor:
    """Probabilities: p(foreground) of (N, K + 1) scores times the softmax of (N, K) others."""
    e, n = z.exp(), nearest.exp()
    background = e[:, -1:] / e.sum(dim=1, keepdim=True)
    return torch.cat([(1 - background) * n / n.sum(dim=1, keepdim=True), background], dim=1)


# --- DisAlign


def calibrated(form: str, z, alpha, beta, s):
    """One score, or all of them, as the paper prints Eq. 5 and Eq. 6."""
    if form == "eq5":
        return s * (alpha * z + beta) + (1 - s) * z
    return (1 + s * alpha) * z + s * beta


def calibrated_queries(form: str, z: Tensor, alpha, beta, s: Tensor) -> Tensor:
    """Of (N, K + 1) scores the K classes' are calibrated, that of "no object" is left."""
    columns = [calibrated(form, z[:, j], alpha[j], beta[j], s) for j in range(len(alpha))]
    return torch.stack([*columns, z[:, -1]], dim=1)


def printed_weights(counts: Sequence[float], rho: float) -> list[float]:
    """Eq. 11 times K, r_c the share of all samples."""
    powers = [(sum(counts) / n) ** rho for n in counts]
    return [len(counts) * power / sum(powers) for power in powers]


# --- Region Rebalance


def regions(features: Tensor, weights: Tensor, scope: str = "image") -> dict[tuple, Tensor]:
    """Eq. 7's regions, (C,) by image and class, by loops.

    Args:
        features: (N, C, H, W).
        weights: (N, K, H, W), the share of class k in a cell.
        scope: ``"image"``, or ``"batch"`` for all images together.
    """
    N, K, H, W = weights.shape
    sums: dict[tuple[int, int], Tensor] = {}
    areas: dict[tuple[int, int], float] = {}
    for n in range(N):
        for k in range(K):
            for y in range(H):
                for x in range(W):
                    weight = weights[n, k, y, x].item()
                    if weight == 0:
                        continue
                    key = (n if scope == "image" else 0, k)
                    sums[key] = sums.get(key, 0) + weight * features[n, :, y, x]
                    areas[key] = areas.get(key, 0) + weight
    return {key: sums[key] / areas[key] for key in sorted(sums)}


def nearest_weights(labels: Tensor, count: int, size: tuple[int, int], ignore: int = 255) -> Tensor:
    """(N, h, w) labels to (N, K, H, W): 1 for the class of the pixel that a cell begins at."""
    (N, h, w), (H, W) = labels.shape, size
    weights = torch.zeros(N, count, H, W, dtype=torch.float64)
    for y in range(H):
        for x in range(W):
            for n in range(N):
                label = labels[n, y * h // H, x * w // W].item()
                if label != ignore:
                    weights[n, label, y, x] = 1
    return weights
