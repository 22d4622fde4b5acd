# SPDX-License-Identifier: Apache-2.0
"""Random scores of images, and the place of a class among them by sorting."""

import numpy as np
import torch

K = 7


def scores_and_labels(count=60, seed=0):
    """Scores on a coarse grid, which tie often; class 3 has no image."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 4, 5, 6], count)
    scores = np.round(rng.normal(size=(count, K)), 1)
    scores[np.arange(count), labels] += 0.5
    return torch.from_numpy(np.round(scores, 1)), torch.from_numpy(labels)


def place(row, label):
    """By sorting: the best first, of equal ones the lower index."""
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))
    return order.index(label)
