# SPDX-License-Identifier: Apache-2.0
"""The common part of all semantic heads: pixel classifier, auxiliary head, losses.

Shape alphabet:
    N: images of the batch
    C: channels of the pixel features
    H, W: height and width of the pixel features
    h, w: height and width of the (padded) images and their label maps
    K: classes
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import resize, resize_logits


class PixelClassifier(nn.Conv2d):
    """Channel dropout and the 1x1 convolution to the classes.

    Both are one module, so that its input is the pixel feature *before* dropout.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        """Initialize the convolution with small random weights and no bias.

        Args:
            channels: C.
            num_classes: K.
            dropout: probability of a channel to be dropped in training, in [0, 1).
        """
        super().__init__(channels, num_classes, kernel_size=1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) pixel features to (N, K, H, W) logits."""
        return super().forward(F.dropout2d(features, self.dropout, self.training))


class SemSegHead(nn.Module, ABC):
    """A semantic head is its pixel features; everything after them is here.

    A subclass defines :meth:`pixel_features` and builds its layers; it has the interface of
    detectron2's heads, ``head(features, targets) -> (logits, losses)``.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_classes: int,
        common_stride: float,
        pixel_loss: nn.Module,
        loss_weight: float = 1.0,
        loss_name: str = "loss_sem_seg",
        ignore_value: int = 255,
        dropout: float = 0.1,
        auxiliary: "SemSegHead | None" = None,
    ) -> None:
        """Put a pixel classifier on the features that a subclass computes.

        Args:
            channels: C, what :meth:`pixel_features` returns.
            num_classes: K.
            common_stride: stride of the pixel features; 3.5 is a quarter of a patch of 14.
            pixel_loss: ``pixel_loss(logits (N,K,h,w), labels (N,h,w)) -> scalar``.
            loss_weight: factor of the pixel loss.
            loss_name: key of the pixel loss in the losses.
            ignore_value: label of the pixels that are left out.
            dropout: channel dropout before the classifier.
            auxiliary: a second head that only adds its loss in training.
        """
        super().__init__()
        self.predictor = PixelClassifier(channels, num_classes, dropout)
        self.common_stride = common_stride
        self.pixel_loss = pixel_loss
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.ignore_value = ignore_value
        self.auxiliary = auxiliary
        # Factors of the losses of earlier stages, by loss name.
        self.stage_weights: dict[str, float] = {}

    @abstractmethod
    def pixel_features(self, features: dict[str, Tensor]) -> Tensor:
        """The backbone's maps to (N, C, H, W): what the pixel classifier reads, before dropout."""

    def stages(self, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`pixel_features`, and the (N, K, H, W) logits of earlier stages by loss name."""
        return self.pixel_features(features), {}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """The (N, K, H, W) logits, not resized; detectron2's heads have a method of this name."""
        return self.predictor(self.pixel_features(features))

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the losses in training, logits otherwise.

        Args:
            features: the backbone's maps by name.
            targets: (N, h, w) labels, needed in training.

        Returns:
            In training None and the losses by name; in evaluation the (N, K, h, w) logits and no
            losses. Their size is the maps' times the stride, that of images padded to it.
        """
        if not self.training:
            return resize(self.layers(features), scale_factor=self.common_stride), {}
        pixel_features, earlier = self.stages(features)
        logits = self.predictor(pixel_features)
        weights = {self.loss_name: self.loss_weight, **self.stage_weights}
        losses = {
            name: weights[name] * self.pixel_loss(resize_logits(z, targets.shape[1:]), targets)
            for name, z in {self.loss_name: logits, **earlier}.items()
        }
        if self.auxiliary is not None:
            losses.update(self.auxiliary(features, targets)[1])
        return None, losses

    def loss_normalizers(self, targets: Tensor) -> dict[str, Tensor]:
        """The divisor of each loss: with it, the losses of parts add up to a batch's.

        Args:
            targets: (N, h, w) labels.

        Returns:
            A scalar >= 0 for each loss by name, if the pixel loss has a ``normalizer``.
        """
        normalizers = {}
        if hasattr(self.pixel_loss, "normalizer"):
            names = (self.loss_name, *self.stage_weights)
            normalizers = dict.fromkeys(names, self.pixel_loss.normalizer(targets))
        if self.auxiliary is not None:
            normalizers.update(self.auxiliary.loss_normalizers(targets))
        return normalizers
