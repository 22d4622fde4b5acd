# SPDX-License-Identifier: Apache-2.0
"""Losses of maps of pixels: a class loss over the valid pixels, and the Dice loss.

Shape alphabet:
    N: images of the batch
    K: classes
    H, W: height and width of logits and labels
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.losses.base import ClassLoss
from longtail.losses.cross_entropy import cross_entropy
from longtail.losses.reduction import at_least_float32


def nearest_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels at the resolution of a feature map, by nearest neighbour.

    Args:
        labels: (N, h, w) of the image.
        size: H and W.

    Returns:
        (N, H, W) int64.
    """
    # F.interpolate takes no integers; class indices are exact in float32.
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()


def dice_loss(logits: Tensor, labels: Tensor, *, ignore_label: int = 255) -> Tensor:
    r"""Soft Dice loss of V-Net, averaged over images and classes.

    .. math::

        L = 1 - \frac{1}{N K} \sum_{n,k}
            \frac{2 \sum_i p_{ik} g_{ik} + 1}{\sum_i p_{ik}^2 + \sum_i g_{ik}^2 + 1}

    where i runs over the valid pixels of image n, p is the softmax and g the one-hot label; the 1
    keeps a class that is neither shown nor predicted at zero loss.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W) integers, 0..K-1 or ``ignore_label``.
        ignore_label: label of the pixels that are left out.

    Returns:
        A scalar in [0, 1].
    """
    labels = labels.long()
    valid = (labels != ignore_label)[:, None]
    probability = at_least_float32(logits).softmax(dim=1) * valid
    index = torch.where(valid[:, 0], labels, 0)[:, None]
    overlap = torch.zeros_like(probability).scatter_(1, index, probability.gather(1, index))
    N, K = logits.shape[:2]
    # g is 0 or 1, so its squares sum to the class's pixels.
    area = torch.zeros(N, K, device=logits.device)
    area.scatter_add_(1, index.flatten(1), valid.flatten(1).float())
    dice = (2 * overlap.sum(dim=(2, 3)) + 1) / (probability.square().sum(dim=(2, 3)) + area + 1)
    return 1 - dice.mean()


class PixelLoss(nn.Module):
    """A class loss over the valid pixels."""

    def __init__(self, class_loss: ClassLoss, ignore_label: int = 255) -> None:
        """Apply a loss of samples to the pixels that have a label.

        Args:
            class_loss: of one pixel, with K logits.
            ignore_label: label of the pixels that are left out.
        """
        super().__init__()
        self.class_loss = class_loss
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, K, H, W) logits and (N, H, W) labels to a scalar."""
        return self.class_loss.of_pixels(logits, labels, self.ignore_label)

    def normalizer(self, labels: Tensor) -> Tensor:
        """The valid pixels of (N, H, W) labels, or the sum of their weights."""
        return self.class_loss.normalizer(labels[labels != self.ignore_label].long())


class DiceLoss(nn.Module):
    """:func:`.dice_loss`, alone or with cross-entropy added (Table 6 of Region Rebalance)."""

    def __init__(self, ignore_label: int = 255, *, with_cross_entropy: bool = False) -> None:
        """Choose between Dice loss alone and its sum with cross-entropy.

        Args:
            ignore_label: label of the pixels that are left out.
            with_cross_entropy: add plain pixel cross-entropy with weight 1.
        """
        super().__init__()
        self.ignore_label = ignore_label
        self.with_cross_entropy = with_cross_entropy

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, K, H, W) logits and (N, H, W) labels to a scalar."""
        loss = dice_loss(logits, labels, ignore_label=self.ignore_label)
        if self.with_cross_entropy:
            loss = loss + cross_entropy(logits, labels, ignore_label=self.ignore_label)
        return loss

    def normalizer(self, labels: Tensor) -> Tensor:
        """The images of (N, H, W) labels.

        Raises:
            ValueError: with cross-entropy, whose mean is over pixels.
        """
        if self.with_cross_entropy:
            raise ValueError(
                "SOLVER.ACCUMULATION_STEPS must be 1 with MODEL.SEM_SEG_HEAD.PIXEL_LOSS "
                "dice_cross_entropy: it adds a mean over images and one over pixels, whose parts "
                "count differently"
            )
        return torch.tensor(float(len(labels)), device=labels.device)
