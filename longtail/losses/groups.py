# SPDX-License-Identifier: Apache-2.0
"""Balanced group softmax (BAGS, Li et al. 2020).

Shape alphabet:
    S: samples: images or RoIs
    K: classes (foreground classes in detection)
    G: bins of classes
    D: K + G, or K + G + 2 with background
"""

import torch
from torch import Tensor

from longtail.losses.base import ClassLoss
from longtail.losses.functional import (
    group_columns,
    group_losses,
    group_probabilities,
    objectness_losses,
    sample_others,
    times_objectness,
)
from longtail.losses.reduction import at_least_float32, mean_over_processes


class BalancedGroupSoftmax(ClassLoss):
    """One softmax for each bin of classes of similar counts, each with an output for the others.

    The loss is the sum over the bins of the mean over the samples that a bin learns from. In
    detection one more softmax tells foreground from background, over all RoIs. The outputs: K
    classes, the others of each bin, then foreground and background.
    """

    is_softmax = False

    def __init__(
        self,
        num_classes: int,
        *,
        background: bool = False,
        bins: Tensor,
        num_bins: int,
        beta: float,
    ) -> None:
        """Distribute the classes to bins.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            bins: (K,) int64, the bin of each class, 0..G-1.
            num_bins: G.
            beta: how many samples of the others a bin draws for one of its own.
        """
        super().__init__(num_classes, background=background)
        self.num_bins = num_bins
        self.beta = beta
        # Probabilities need it: a checkpoint can be tested without the training set.
        self.register_buffer("bins", bins)

    @property
    def num_logits(self) -> int:
        """D = K + G, in detection two more: foreground and background."""
        return self.num_classes + self.num_bins + 2 * self.background

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to the sum of the bins' mean losses, a scalar."""
        logits = at_least_float32(logits)
        loss = logits.sum() * 0
        for columns in group_columns(self.bins, self.num_bins):
            losses, inside = group_losses(logits, classes, columns)
            used = sample_others(inside, self.beta).to(losses)
            loss = loss + (losses * used).sum() / mean_over_processes(used.sum())
        if self.background:
            total = objectness_losses(logits[:, -2:], classes == self.num_classes).sum()
            count = torch.tensor(float(len(classes)), device=logits.device)
            loss = loss + total / mean_over_processes(count)
        return loss

    def normalizer(self, classes: Tensor) -> Tensor:
        """Refuse to divide a batch.

        Raises:
            ValueError: always; the bins draw samples from the whole batch.
        """
        raise ValueError(
            "SOLVER.ACCUMULATION_STEPS must be 1 with the loss bags: its bins draw samples from "
            "the whole batch"
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, D) logits to (S, K), or (S, K + 1), probabilities.

        In detection those within the bins times that of foreground. Rows do not add up to 1.
        """
        probabilities = group_probabilities(logits, self.bins, self.num_bins)
        if not self.background:
            return probabilities
        return times_objectness(probabilities, logits[:, -2:])
