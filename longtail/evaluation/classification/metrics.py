# SPDX-License-Identifier: Apache-2.0
"""Metrics of image classification as pure functions.

Shapes: N images, K classes.
"""

import torch
from torch import Tensor


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank the right class among all classes, 0 for the first.

    Of classes with equal scores the one of the lower index stands first: top-1 is then what
    ``argmax`` names, and no tie is decided in favor of the right class.

    Args:
        scores: (N, K), the higher the better; infinities are allowed.
        labels: (N,) integers, 0..K-1.

    Returns:
        (N,) int64, 0..K-1. An image is right in the sense of top-k where its rank is below k.

    Raises:
        ValueError: a score is NaN.
    """
    if scores.isnan().any():
        raise ValueError("a score is NaN, so that classes have no order: the model has diverged")
    own = scores.gather(1, labels[:, None])
    lower_index = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & lower_index)).sum(dim=1)


def top_k_accuracy(ranks: Tensor, k: int) -> float:
    """Share of the images whose right class is among the k best, in percent.

    Args:
        ranks: (N,) of :func:`label_ranks`, N > 0.
        k: at least 1.
    """
    return 100 * (ranks < k).double().mean().item()


def class_accuracy(ranks: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Top-1 accuracy on the images of each class, in percent.

    Args:
        ranks: (N,) of :func:`label_ranks`.
        labels: (N,) integers, 0..K-1.
        num_classes: K.

    Returns:
        (K,) float64, NaN for a class without images.
    """
    hits = torch.bincount(labels[ranks < 1], minlength=num_classes)
    return 100 * hits.double() / torch.bincount(labels, minlength=num_classes)
