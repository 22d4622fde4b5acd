# SPDX-License-Identifier: Apache-2.0
"""Losses of a softmax over the classes, and over the background in detection.

Shape alphabet:
    S: samples: images, valid pixels or RoIs
    K: classes (foreground classes in detection)
    D: K, or K + 1 with background
"""

from collections.abc import Callable

import torch
from torch import Tensor

from longtail.losses.base import SampleMeanLoss
from longtail.losses.functional import focal_loss, ldam_loss, seesaw_loss, softmax_equalization_loss
from longtail.losses.reduction import sum_over_processes


class Focal(SampleMeanLoss):
    """:func:`.functional.focal_loss` with its exponent."""

    def __init__(self, num_classes: int, *, background: bool = False, gamma: float) -> None:
        """Set the exponent.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            gamma: >= 0.
        """
        super().__init__(num_classes, background=background)
        self.gamma = gamma

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to (S,) focal losses."""
        return focal_loss(logits, classes, self.gamma)


class LDAM(SampleMeanLoss):
    """:func:`.functional.ldam_loss` with deferred re-weighting (DRW)."""

    def __init__(
        self,
        num_classes: int,
        *,
        background: bool = False,
        margins: Tensor,
        deferred_weights: Tensor,
        reweight_from: int,
        iteration: Callable[[], int],
    ) -> None:
        """Register the margins, and the weights that come into force later.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            margins: (D,) Delta.
            deferred_weights: (D,) weights >= 0 of the classes.
            reweight_from: iteration of the training from which the weights count.
            iteration: says in which iteration the training is.
        """
        super().__init__(num_classes, background=background)
        self.register_buffer("margins", margins, persistent=False)
        self.register_buffer("deferred_weights", deferred_weights, persistent=False)
        self.reweight_from = reweight_from
        self.iteration = iteration

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to (S,) losses with margins."""
        return ldam_loss(logits, classes, self.margins)

    def sample_weights(self) -> Tensor | None:
        """(D,) weights from ``reweight_from`` on, None before."""
        return self.deferred_weights if self.iteration() >= self.reweight_from else None


class Seesaw(SampleMeanLoss):
    """:func:`.functional.seesaw_loss` with the counts of all samples seen in training.

    In detection the background is one more class, but its RoIs push all classes down as in
    cross-entropy: they are no samples of a frequent class that the rare ones would need protection
    from. (The authors train two more outputs for foreground and background instead.)
    """

    def __init__(self, num_classes: int, *, background: bool = False, p: float, q: float) -> None:
        """Set the exponents and start with no samples counted.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            p: exponent >= 0 of the mitigation.
            q: exponent >= 0 of the compensation.
        """
        super().__init__(num_classes, background=background)
        self.p, self.q = p, q
        # Part of the training's state, unlike statistics of a data set. int64: float32 would not
        # count beyond 2^24 pixels.
        self.register_buffer("class_counts", torch.zeros(self.num_logits, dtype=torch.int64))

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to (S,) losses; training counts the samples first."""
        if self.training:
            # Not bincount: it makes a GPU wait for the largest class.
            counts = torch.zeros_like(self.class_counts)
            counts.index_add_(0, classes, torch.ones_like(classes, dtype=counts.dtype))
            self.class_counts += sum_over_processes(counts)
        return seesaw_loss(
            logits, classes, self.class_counts, self.p, self.q, background=self.background
        )


class SoftmaxEqualization(SampleMeanLoss):
    """:func:`.functional.softmax_equalization_loss` with its tail classes."""

    def __init__(self, num_classes: int, *, tail: Tensor, gamma: float) -> None:
        """Register the tail classes and how often they are left out.

        Args:
            num_classes: K.
            tail: (K,) bool.
            gamma: probability of a tail class to be left out by a sample of another class.
        """
        super().__init__(num_classes)
        self.register_buffer("tail", tail, persistent=False)
        self.gamma = gamma

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, K) logits and (S,) classes to (S,) losses; draws which tail classes are left out."""
        drawn = torch.rand(logits.shape, device=logits.device) < self.gamma
        return softmax_equalization_loss(logits, classes, self.tail & drawn)
