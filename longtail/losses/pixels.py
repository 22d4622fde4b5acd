"""Pixel losses as modules, chosen by ``MODEL.SEM_SEG_HEAD.PIXEL_LOSS``.

A module only holds what its function in :mod:`.losses` needs besides logits and labels. The losses
that need class statistics are registered in :mod:`longtail.losses.pixels_from_statistics`, which
may look them up; here all constructors take plain tensors.

Shape alphabet:
    N: images of the batch
    K: classes
    H, W: height and width of logits and labels
"""

import torch
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from longtail.losses import PIXELS, SampleMeanLoss, build_class_loss, class_loss_names
from longtail.losses.cross_entropy import dice_loss, pixel_cross_entropy, total_weight

PIXEL_LOSS_REGISTRY = Registry("PIXEL_LOSS")
PIXEL_LOSS_REGISTRY.__doc__ = """
Registry of pixel losses: callables of a config that return a module with
``forward(logits (N,K,H,W), labels (N,H,W)) -> scalar`` and, for gradient accumulation,
``normalizer(labels) -> scalar``: what the loss is a mean over. Class losses that are not in here
are those of :mod:`.class_losses`, pixel by pixel.
"""


def build_pixel_loss(cfg: CfgNode) -> nn.Module:
    """The pixel loss that ``MODEL.SEM_SEG_HEAD.PIXEL_LOSS`` names.

    Raises:
        ValueError: no loss has that name.
    """
    name = PIXELS.loss_name(cfg)
    if name in PIXEL_LOSS_REGISTRY:
        return PIXEL_LOSS_REGISTRY.get(name)(cfg)
    others = class_loss_names(PIXELS)
    if name in others:
        class_loss = build_class_loss(cfg, name, PIXELS)
        return PixelClassLoss(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, class_loss=class_loss)
    known = ", ".join(sorted({*others, *(key for key, _ in PIXEL_LOSS_REGISTRY)}))
    raise ValueError(f"{PIXELS.loss_key} must be one of {known}, got {name!r}")


class PixelCrossEntropy(nn.Module):
    """:func:`.losses.pixel_cross_entropy` with its weights and prior."""

    def __init__(
        self,
        ignore_label: int = 255,
        *,
        class_weight: Tensor | None = None,
        class_prior: Tensor | None = None,
    ) -> None:
        """
        Args:
            ignore_label: label of the pixels that are left out.
            class_weight: (K,) weights, or None for 1.
            class_prior: (K,) frequencies, or None for plain softmax.
        """
        super().__init__()
        self.ignore_label = ignore_label
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.register_buffer("class_prior", class_prior, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, K, H, W) logits and (N, H, W) labels to a scalar."""
        return pixel_cross_entropy(
            logits,
            labels,
            class_weight=self.class_weight,
            class_prior=self.class_prior,
            ignore_label=self.ignore_label,
        )

    def normalizer(self, labels: Tensor) -> Tensor:
        """The valid pixels of (N, H, W) labels, or the sum of their weights."""
        return total_weight(labels, self.class_weight, self.ignore_label)


class DiceLoss(nn.Module):
    """:func:`.losses.dice_loss`, alone or with cross-entropy added (Table 6)."""

    def __init__(self, ignore_label: int = 255, *, with_cross_entropy: bool = False) -> None:
        """
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
            loss = loss + pixel_cross_entropy(logits, labels, ignore_label=self.ignore_label)
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


class PixelClassLoss(nn.Module):
    """A class loss over the valid pixels."""

    def __init__(self, ignore_label: int = 255, *, class_loss: SampleMeanLoss) -> None:
        """
        Args:
            ignore_label: label of the pixels that are left out.
            class_loss: of one pixel, with K logits.
        """
        super().__init__()
        self.ignore_label = ignore_label
        self.class_loss = class_loss

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, K, H, W) logits and (N, H, W) labels to a scalar."""
        valid = labels != self.ignore_label
        # One copy of the logits that count, the only one here.
        return self.class_loss(logits.permute(0, 2, 3, 1)[valid], labels[valid].long())

    def normalizer(self, labels: Tensor) -> Tensor:
        """The valid pixels of (N, H, W) labels, or the sum of their weights."""
        return self.class_loss.normalizer(labels[labels != self.ignore_label].long())


@PIXEL_LOSS_REGISTRY.register()
def cross_entropy(cfg: CfgNode) -> nn.Module:
    """The baseline."""
    return PixelCrossEntropy(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)


@PIXEL_LOSS_REGISTRY.register()
def dice(cfg: CfgNode) -> nn.Module:
    """Dice loss alone (Table 6)."""
    return DiceLoss(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)


@PIXEL_LOSS_REGISTRY.register()
def dice_cross_entropy(cfg: CfgNode) -> nn.Module:
    """Dice loss and cross-entropy, with weight 1 each (Table 6)."""
    return DiceLoss(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, with_cross_entropy=True)
