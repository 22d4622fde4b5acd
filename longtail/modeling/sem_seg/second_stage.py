# SPDX-License-Identifier: Apache-2.0
"""Second stages of a semantic head: its pixel features are frozen, a small part is trained.

Shape alphabet:
    N: images of the batch
    C: channels of the pixel features
    H, W: height and width of the pixel features
    h, w: height and width of the (padded) images and their label maps
    K: classes
"""

from collections.abc import Mapping

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.modeling.scaling import ClassScaling

from .base import PixelClassifier
from .blocks import resize
from .mask2former import Mask2FormerHead
from .wrapping import SemSegHeadWrapper, innermost


class SecondStageSemSegHead(SemSegHeadWrapper):
    """Wrap a trained head and change what its pixel classifier gives.

    The wrapped head is in evaluation mode also in training: what its dropout, its auxiliary head or
    a region branch would do there is not computed. What follows the changed scores, up to those at
    image size, is in training what it is in testing.

    Attributes:
        trained_module_names: see :mod:`longtail.engine.training.stages`.
        remedies: likewise.
    """

    trained_module_names: tuple[str, ...] = ()

    def __init__(
        self,
        base_head: nn.Module,
        pixel_classifier: str,
        *,
        loss_weight: float = 1.0,
        pad_to_stride: bool = True,
    ) -> None:
        """Wrap a trained head.

        Args:
            base_head: the trained head, see :class:`.SemSegHeadWrapper`.
            pixel_classifier: name of its classifier, whose logits are changed.
            loss_weight: factor of the loss.
            pad_to_stride: how the segmentor brings logits to the size of the image, see
                :class:`longtail.modeling.LongTailSemanticSegmentor`: the loss is that of the
                logits in testing.

        Raises:
            ValueError: there is no such submodule, or a head of queries.
        """
        if isinstance(innermost(base_head), Mask2FormerHead):
            raise ValueError(
                f"{type(self).__name__} changes the scores of pixels, and a Mask2FormerHead has "
                "those of queries: take a semantic head for queries, or another first stage"
            )
        super().__init__(base_head, pixel_classifier)
        self.loss_weight = loss_weight
        self.pad_to_stride = pad_to_stride

    def changed_scores(self, entered: Tensor, logits: Tensor) -> Tensor:
        """What takes the place of the classifier's output.

        Args:
            entered: (N, C, H, W) pixel features.
            logits: (N, K, H, W) scores of the frozen classifier.

        Returns:
            (N, K, H, W).
        """
        raise NotImplementedError

    def pixel_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss: (N, K, h, w) changed logits and (N, h, w) labels to a scalar."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "SecondStageSemSegHead":
        """The wrapped head stays in evaluation mode."""
        super().train(mode)
        self.base_head.eval()
        return self

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the loss in training, changed logits otherwise.

        Args:
            features: the backbone's feature maps by name.
            targets: (N, h, w) labels, needed in training.

        Returns:
            In training None and the loss as ``loss_sem_seg``; otherwise the wrapped head's
            (N, K, h, w) logits, changed, and no losses.
        """
        if not self.training:
            with self.classifier_hook(self.changed_scores):
                return self.base_head(features)[0], {}
        height, width = targets.shape[1:]
        with self.classifier_hook(self.changed_scores):
            if self.pad_to_stride:
                # Logits end with the last feature cell, which may reach over the image.
                logits = self.base_head(features)[0][..., :height, :width]
            else:
                logits = resize(self.base_head.layers(features), size=(height, width))
        return None, {"loss_sem_seg": self.loss_weight * self.pixel_losses(logits, targets)}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """The wrapped head's (N, K, H, W) logits, changed and not resized."""
        with self.classifier_hook(self.changed_scores):
            return self.base_head.layers(features)


class _WithPixelLoss(SecondStageSemSegHead):
    """A second stage that trains with MODEL.SEM_SEG_HEAD.PIXEL_LOSS, which its head has."""

    config_node = "SECOND_STAGE"

    @configurable
    def __init__(self, base_head: nn.Module, **kwargs: object) -> None:
        """Wrap a trained head.

        Args:
            base_head: the trained head, one of longtail's.
            kwargs: as for :class:`SecondStageSemSegHead`.

        Raises:
            ValueError: the head has no loss for pixels, or one with a state, which would be the
                first stage's; or there is no such classifier.
        """
        super().__init__(base_head, **kwargs)
        inner, name = innermost(base_head), type(self).__name__
        if not hasattr(inner, "pixel_loss"):
            raise ValueError(
                f"{name} trains with the loss of the head in it, and {type(inner).__name__} has "
                "none that can be chosen: set MODEL.SECOND_STAGE.BASE_HEAD_NAME to a head of "
                "longtail"
            )
        if inner.pixel_loss.state_dict():
            raise ValueError(
                f"{name} cannot train with a MODEL.SEM_SEG_HEAD.PIXEL_LOSS that counts what it has "
                "seen: take another, such as reweighted_cross_entropy"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Build the wrapped head, and read how its scores become a loss."""
        return {
            "base_head": cls.build_base_head(cfg, input_shape),
            "pixel_classifier": cfg.MODEL.SECOND_STAGE.PIXEL_CLASSIFIER,
            "loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
            "pad_to_stride": cfg.MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE,
        }

    @property
    def num_classes(self) -> int:
        """K."""
        return self._classifier().out_channels

    def pixel_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, K, h, w) changed logits and (N, h, w) labels to the pixel loss, a scalar."""
        return innermost(self).pixel_loss(logits, targets)

    def loss_normalizers(self, targets: Tensor) -> dict[str, Tensor]:
        """The divisor of the loss, if it has one: with it, the losses of parts add up to a batch's.

        Args:
            targets: (N, h, w) labels.
        """
        loss = innermost(self).pixel_loss
        return {"loss_sem_seg": loss.normalizer(targets)} if hasattr(loss, "normalizer") else {}


@SEM_SEG_HEADS_REGISTRY.register()
class RetrainedSemSegHead(_WithPixelLoss):
    """cRT for pixels: a new classifier is trained on the frozen pixel features.

    Pixels are not drawn, they come with their images: ``reweighted_cross_entropy`` with exponent 1
    has the gradient that class-balanced pixels have on average. On a balanced training set it is
    the empirical bound. The first stage's classifier stays in the checkpoint.
    """

    own_module = "retrained_classifier"
    trained_module_names = ("retrained_classifier",)

    @configurable
    def __init__(self, base_head: nn.Module, *, dropout: float = 0.1, **kwargs: object) -> None:
        """Add a new pixel classifier.

        Args:
            base_head: the trained head, one of longtail's.
            dropout: channel dropout before the new classifier, in [0, 1).
            kwargs: as for :class:`SecondStageSemSegHead`.

        Raises:
            ValueError: as of other heads that train with a pixel loss.
        """
        super().__init__(base_head, **kwargs)
        self.retrained_classifier = PixelClassifier(self.pixel_channels, self.num_classes, dropout)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Read what is common, and the dropout of the first stage's classifier."""
        common = super().from_config(cfg, input_shape)
        return {**common, "dropout": cfg.MODEL.SEM_SEG_HEAD.DROPOUT}

    def changed_scores(self, entered: Tensor, logits: Tensor) -> Tensor:
        """(N, C, H, W) pixel features to (N, K, H, W) logits of the new classifier."""
        return self.retrained_classifier(entered)


@SEM_SEG_HEADS_REGISTRY.register()
class ScaledSemSegHead(_WithPixelLoss):
    """LWS for pixels: z_j = f_j (w_j.x + b_j), f is trained and starts at 1."""

    own_module = "scaling"
    trained_module_names = ("scaling",)
    # As of images: the factors are learned from the data alone.
    no_decay_params = ("factor",)

    @configurable
    def __init__(self, base_head: nn.Module, **kwargs: object) -> None:
        """Add one factor for each class.

        Args:
            base_head: the trained head, one of longtail's.
            kwargs: as for :class:`SecondStageSemSegHead`.

        Raises:
            ValueError: as of other heads that train with a pixel loss.
        """
        super().__init__(base_head, **kwargs)
        self.scaling = ClassScaling(self.num_classes)

    def changed_scores(self, entered: Tensor, logits: Tensor) -> Tensor:
        """(N, K, H, W) logits of the frozen classifier to (N, K, H, W) scaled ones."""
        return self.scaling(logits)
