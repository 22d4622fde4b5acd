# SPDX-License-Identifier: Apache-2.0
"""Losses of a softmax over the classes, and over the background in detection.

Shape alphabet:
    S: samples: images, valid pixels or RoIs
    K: classes (foreground classes in detection)
    D: K; with background K + 1, or K + 2 with two outputs for objectness
"""

from collections.abc import Callable

import torch
from torch import Tensor

from longtail.losses.base import SampleMeanLoss
from longtail.losses.functional import (
    focal_loss,
    ldam_loss,
    objectness_losses,
    seesaw_loss,
    softmax_equalization_loss,
    times_objectness,
)
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
        scale: float | None = None,
    ) -> None:
        """Register the margins, and the weights that come into force later.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            margins: (D,) Delta, in units of the logits: of the cosines, times ``scale``.
            deferred_weights: (D,) weights >= 0 of the classes.
            reweight_from: iteration of the training from which the weights count.
            iteration: says in which iteration the training is.
            scale: s > 0 of a cosine classifier, which does not learn it; None if it may.
        """
        super().__init__(num_classes, background=background)
        self.cosine_scale = scale
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

    In detection, as the authors publish it (mmdetection), two more outputs tell foreground from
    background by a cross-entropy over all RoIs, to which foreground adds the loss of its classes;
    probabilities of classes are multiplied by that of foreground. The outputs: K classes, then
    foreground and background.

    Without these two background is one more class, but its RoIs push all classes down as in
    cross-entropy: they are no samples of a frequent class that the rare ones would need protection
    from.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        background: bool = False,
        p: float,
        q: float,
        eps: float = 0.01,
        objectness: bool = False,
    ) -> None:
        """Set the exponents and start with no samples counted.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            p: exponent >= 0 of the mitigation.
            q: exponent >= 0 of the compensation.
            eps: the least probability of a sample's own class in the compensation, in [0, 1].
            objectness: with background, whether it has two outputs of its own.
        """
        super().__init__(num_classes, background=background)
        self.options = {"p": p, "q": q, "eps": eps}
        self.objectness = objectness and background
        self.is_softmax = not self.objectness
        # Part of the training's state, unlike statistics of a data set. int64: float32 would not
        # count beyond 2^24 pixels.
        counts = torch.zeros(num_classes + background, dtype=torch.int64)
        self.register_buffer("class_counts", counts)

    @property
    def num_logits(self) -> int:
        """D."""
        return self.num_classes + self.background + self.objectness

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to (S,) losses; training counts the samples first."""
        if self.training:
            # Not bincount: it makes a GPU wait for the largest class.
            counts = torch.zeros_like(self.class_counts)
            counts.index_add_(0, classes, torch.ones_like(classes, dtype=counts.dtype))
            self.class_counts += sum_over_processes(counts)
        if not self.objectness:
            return seesaw_loss(
                logits, classes, self.class_counts, background=self.background, **self.options
            )
        K, is_background = self.num_classes, classes == self.num_classes
        # Not a selection of the foreground: a GPU would have to wait until its number is known.
        of_classes = seesaw_loss(
            logits[:, :K], classes.clamp(max=K - 1), self.class_counts[:K], **self.options
        )
        return of_classes.masked_fill(is_background, 0) + objectness_losses(
            logits[:, K:], is_background
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, D) logits to (S, K) probabilities, or (S, K + 1) with the background's."""
        if not self.objectness:
            return super().probabilities(logits)
        K = self.num_classes
        return times_objectness(logits[:, :K].softmax(dim=1), logits[:, K:])


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
