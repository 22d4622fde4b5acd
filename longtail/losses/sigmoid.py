# SPDX-License-Identifier: Apache-2.0
"""Losses of one sigmoid for each class.

As detectron2's own sigmoid loss, in detection the classifier keeps the output of the background. It
counts for nothing, background being what no class takes for its own, except in the equalization
loss v2.

Shape alphabet:
    S: samples: images or RoIs
    K: classes (foreground classes in detection)
    D: K, or K + 1 with background
"""

import math

import torch
from torch import Tensor

from longtail.losses.base import SampleMeanLoss
from longtail.losses.functional import (
    equalization_weights,
    federated_classes,
    gradient_guided_weights,
    one_hot,
    sigmoid_focal_losses,
    sigmoid_losses,
)
from longtail.losses.reduction import sum_over_processes

# What a class is given at the start (Lin et al. 2017): with 1/2 the loss of a thousand classes
# would be hundreds, of samples of which all but one say no.
INITIAL_PROBABILITY = 0.01


class SigmoidLoss(SampleMeanLoss):
    """A weighted sum over the classes of binary cross-entropy, the mean of it over samples."""

    is_softmax = False
    # Whether the output of the background is learned.
    trains_background = False
    initial_bias = -math.log((1 - INITIAL_PROBABILITY) / INITIAL_PROBABILITY)

    def element_weights(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weight of each class of each sample.

        Args:
            logits: (S, K).
            targets: (S, K) bool.

        Returns:
            A tensor that broadcasts to (S, K).
        """
        raise NotImplementedError

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to (S,) sums of weighted sigmoid losses."""
        logits, targets = logits[:, : self.num_classes], one_hot(classes, self.num_classes)
        weights = self.element_weights(logits.detach(), targets)
        return (weights * sigmoid_losses(logits, targets)).sum(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, D) logits to (S, D) probabilities; the background's is 0."""
        probabilities = logits[:, : self.num_classes].sigmoid()
        if not self.background:
            return probabilities
        return torch.cat([probabilities, torch.zeros_like(probabilities[:, :1])], dim=1)


class SigmoidFocal(SigmoidLoss):
    """:func:`.functional.sigmoid_focal_losses`, divided by the foreground samples as published.

    Nearly all of the sum is of the few samples that are hard: their number, not that of all, is
    what it grows with.
    """

    def __init__(
        self, num_classes: int, *, background: bool = False, gamma: float, alpha: float
    ) -> None:
        """Set the exponent and the weight of positive samples.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            gamma: >= 0.
            alpha: in [0, 1].
        """
        super().__init__(num_classes, background=background)
        self.gamma, self.alpha = gamma, alpha

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to (S,) sums of focal losses."""
        logits, targets = logits[:, : self.num_classes], one_hot(classes, self.num_classes)
        return sigmoid_focal_losses(logits, targets, self.gamma, self.alpha).sum(dim=1)

    def normalizer(self, classes: Tensor) -> Tensor:
        """The foreground samples of (S,) classes; the loss takes none as one."""
        return (classes < self.num_classes).sum().float()


class Equalization(SigmoidLoss):
    """Equalization loss: :func:`.functional.equalization_weights` with its tail classes."""

    # Of the authors' release: about one of LVIS's 1,230 classes.
    initial_bias = -math.log((1 - 0.001) / 0.001)

    def __init__(self, num_classes: int, *, background: bool = False, tail: Tensor) -> None:
        """Register the tail classes.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            tail: (K,) bool.
        """
        super().__init__(num_classes, background=background)
        self.register_buffer("tail", tail, persistent=False)

    def element_weights(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(S, K) weights that spare tail classes the negatives of foreground."""
        return equalization_weights(targets, self.tail)


class GradientEqualization(SigmoidLoss):
    """Equalization loss v2: :func:`.functional.gradient_guided_weights`, and what they are from.

    In detection one more binary cross-entropy, of weight 1, tells background from foreground, and
    probabilities of classes are multiplied by that of foreground.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        background: bool = False,
        gamma: float,
        mu: float,
        alpha: float,
    ) -> None:
        """Set the mapping function and start with no accumulated gradients.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            gamma: steepness of the function f of :func:`.functional.gradient_guided_weights`.
            mu: the ratio at which f is one half.
            alpha: how much positive samples gain where f is 0.
        """
        super().__init__(num_classes, background=background)
        self.trains_background = background
        self.options = {"gamma": gamma, "mu": mu, "alpha": alpha}
        # Part of the training's state. In float64: after many steps a small gradient would be lost
        # in a float32 sum.
        for name in ("positive_gradients", "negative_gradients"):
            self.register_buffer(name, torch.zeros(num_classes, dtype=torch.float64))

    def sample_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to (S,) losses, in detection with the background's."""
        losses = super().sample_losses(logits, classes)
        if not self.background:
            return losses
        is_background = classes == self.num_classes
        return losses + sigmoid_losses(logits[:, -1], is_background)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, D) logits to (S, D) probabilities; of classes they are those of foreground too."""
        probabilities = logits.sigmoid()
        if not self.background:
            return probabilities
        classes, background = probabilities.split([self.num_classes, 1], dim=1)
        return torch.cat([classes * (1 - background), background], dim=1)

    def element_weights(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(S, K) weights by the gradients so far; in training this batch's are added to them."""
        of_positives, of_negatives = gradient_guided_weights(
            self.positive_gradients, self.negative_gradients, **self.options
        )
        weights = torch.where(targets, of_positives, of_negatives).to(logits)
        if self.training:
            gradients = ((logits.sigmoid() - targets.to(logits)).abs() * weights).double()
            total, positive = gradients.sum(dim=0), (gradients * targets).sum(dim=0)
            sums = sum_over_processes(torch.stack([positive, total - positive]))
            self.positive_gradients += sums[0]
            self.negative_gradients += sums[1]
        return weights


class Federated(SigmoidLoss):
    """Federated loss: the classes that :func:`.functional.federated_classes` draws."""

    def __init__(
        self,
        num_classes: int,
        *,
        background: bool = False,
        sampling_weights: Tensor,
        number: int,
    ) -> None:
        """Register the weights by which classes are drawn.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            sampling_weights: (K,) >= 0.
            number: of classes that are compared in an iteration.
        """
        super().__init__(num_classes, background=background)
        self.register_buffer("sampling_weights", sampling_weights, persistent=False)
        self.number = number

    def element_weights(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(S, K) weights, 1 for the classes that are drawn for this batch and 0 for the others."""
        return federated_classes(targets, self.sampling_weights, self.number)
