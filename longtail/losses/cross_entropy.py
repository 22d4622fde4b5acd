# SPDX-License-Identifier: Apache-2.0
"""The weighted and balanced cross-entropy of images, pixels, boxes, regions and the alignment.

Shape alphabet:
    S: samples: images, valid pixels, RoIs or regions
    K: classes
    D: K, or K + 1 with the background of detection
    N, H, W: images, height and width of maps of pixels
"""

from torch import Tensor
from torch.nn import functional as F

from longtail.losses.base import ClassLoss
from longtail.losses.reduction import (
    NO_LABEL,
    at_least_float32,
    mean_over_processes,
    total_weight,
)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weight: Tensor | None = None,
    class_prior: Tensor | None = None,
    ignore_label: int = NO_LABEL,
    weighted_mean: bool = True,
) -> Tensor:
    r"""Softmax cross-entropy, re-weighted and balanced as the two papers do it.

    .. math::

        L = \frac{\sum_i w(y_i) \, l_i}{\sum_i w(y_i)}, \qquad
        l_i = -\log \frac{F(y_i) \exp z_{i y_i}}{\sum_k F(k) \exp z_{ik}}

    with w = 1 without ``class_weight`` and F = 1 without ``class_prior``.

    - Region Rebalance: w = 1 and F the regions of each class (Eq. 7) is the region loss L_reg,
      Eq. 8. Over pixels, w the inverse frequency is Table 1's re-weighting; F the pixels of each
      class its balanced softmax, F the regions its balanced softmax*; neither is L_pixel of Eq. 9.
    - DisAlign: F = 1, z the calibrated scores of Eq. 5 and w the weights of Eq. 11 is the KL
      divergence of Eq. 9 from the reference distribution of Eq. 10, up to its constant C. Printed
      is the mean over samples; see ``weighted_mean``.

    Args:
        logits: (S, K), or (N, K, H, W); computed in float32 at least.
        labels: (S,), or (N, H, W), integers, 0..K-1 or ``ignore_label``.
        class_weight: (K,) weights w >= 0.
        class_prior: (K,) frequencies F >= 0 on any scale; a class with F = 0 leaves the
            denominator and must not occur in ``labels``.
        ignore_label: label of the samples that are left out.
        weighted_mean: False divides by the number of samples instead of by the sum of their
            weights.

    Returns:
        A scalar whose average over processes is the mean over the samples of all of them; zero,
        with a zero gradient, if there is none.
    """
    logits, labels = at_least_float32(logits), labels.long()
    if class_prior is not None:
        log_prior = class_prior.to(logits).log()
        logits = logits + log_prior.view(-1, *[1] * (logits.ndim - 2))
    weight = None if class_weight is None else class_weight.to(logits)
    total = F.cross_entropy(
        logits, labels, weight=weight, ignore_index=ignore_label, reduction="sum"
    )
    divisor = total_weight(labels, weight if weighted_mean else None, ignore_label)
    return total / mean_over_processes(divisor)


class CrossEntropy(ClassLoss):
    """:func:`cross_entropy` with its weights and prior.

    Balanced softmax (Ren et al. 2020) has the class counts as prior.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        background: bool = False,
        class_weight: Tensor | None = None,
        class_prior: Tensor | None = None,
    ) -> None:
        """Register the weights and the prior of the classes.

        Args:
            num_classes: K.
            background: whether samples may be background, see :class:`~longtail.losses.ClassLoss`.
            class_weight: (D,) weights >= 0, or None for 1.
            class_prior: (D,) frequencies >= 0, or None for plain softmax; a class of frequency 0
                leaves the denominator and must not occur.
        """
        super().__init__(num_classes, background=background)
        # They belong to the data, not to the weights: they stay out of checkpoints.
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.register_buffer("class_prior", class_prior, persistent=False)

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(S, D) logits and (S,) classes to a scalar."""
        return self.of_pixels(logits, classes, NO_LABEL)

    def of_pixels(self, logits: Tensor, labels: Tensor, ignore_label: int) -> Tensor:
        """As :meth:`.ClassLoss.of_pixels`, without a copy of the logits."""
        return cross_entropy(
            logits,
            labels,
            class_weight=self.class_weight,
            class_prior=self.class_prior,
            ignore_label=ignore_label,
        )

    def normalizer(self, classes: Tensor) -> Tensor:
        """The samples of (S,) classes, or the sum of their weights."""
        return total_weight(classes, self.class_weight)
