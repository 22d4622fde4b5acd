# SPDX-License-Identifier: Apache-2.0
"""The region rebalance branch, added to any semantic segmentation head during training.

Shape alphabet:
    N: images of the batch
    C: channels of the pixel features
    H, W: height and width of the pixel features
    h, w: height and width of the (padded) images and their label maps
    K: classes
    R: regions of the batch
"""

import math

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.data.statistics.class_stats import get_class_stats
from longtail.modeling.sem_seg.wrapping import SemSegHeadWrapper

from .functional import DOWNSAMPLINGS, SCOPES, balanced_softmax_loss, count_regions, pool_regions


@SEM_SEG_HEADS_REGISTRY.register()
class RegionRebalanceHead(SemSegHeadWrapper):
    r"""Wrap a semantic head; in training add ``loss_region``, otherwise be that head.

    The features that enter the base head's pixel classifier are pooled into regions, which an
    auxiliary classifier tells apart under the balanced softmax:

    .. math::

        L_\mathrm{all} = L_\mathrm{pixel} + \lambda L_\mathrm{reg} \qquad \text{(Eq. 9)}

    In evaluation mode nothing but the base head runs. Checkpoints with and without the branch load
    into each other.
    """

    config_node = "REGION_REBALANCE"
    own_module = "region_classifier"

    @configurable
    def __init__(
        self,
        base_head: nn.Module,
        *,
        num_classes: int,
        class_counts: Tensor,
        pixel_classifier: str = "predictor",
        loss_weight: float = 0.3,
        balanced: bool = True,
        scope: str = "image",
        label_downsampling: str = "nearest",
        hidden_channels: int = 0,
    ) -> None:
        """Wrap a head and add the region branch.

        Args:
            base_head: any head, see :class:`.SemSegHeadWrapper`.
            num_classes: K.
            class_counts: (K,) region frequencies F of Eq. 7, the number of training images that
                show each class.
            pixel_classifier: name of its classifier; what enters it is pooled.
            loss_weight: lambda of Eq. 9, >= 0.
            balanced: False for plain cross-entropy over regions (component I of Figure 7).
            scope: ``"image"`` or ``"batch"``, see :func:`.pool_regions`.
            label_downsampling: ``"nearest"`` or ``"area"``, see :func:`.pool_regions`.
            hidden_channels: width of a hidden layer before the region classifier; 0 for none.

        Raises:
            ValueError: an option out of range, counts of another length, or no such submodule.
        """
        super().__init__(base_head, pixel_classifier)
        counts = torch.as_tensor(class_counts)
        if counts.shape != (num_classes,):
            raise ValueError(
                f"class_counts must have shape ({num_classes},) for {num_classes} classes, got "
                f"{tuple(counts.shape)}: NUM_CLASSES and the training set do not belong together"
            )
        if loss_weight < 0:
            raise ValueError(f"loss_weight (lambda) must be >= 0, got {loss_weight}")
        if scope not in SCOPES:
            raise ValueError(f"SCOPE must be one of {SCOPES}, got {scope!r}")
        if label_downsampling not in DOWNSAMPLINGS:
            raise ValueError(
                f"LABEL_DOWNSAMPLING must be one of {DOWNSAMPLINGS}, got {label_downsampling!r}"
            )
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.balanced = balanced
        self.scope = scope
        self.label_downsampling = label_downsampling
        # The statistics belong to the data, not to the weights: they stay out of checkpoints.
        self.register_buffer("class_counts", counts, persistent=False)
        self.region_classifier = _region_classifier(
            self.pixel_channels, hidden_channels, num_classes
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Build the wrapped head, and with BALANCED read the training set's region frequencies."""
        options = cfg.MODEL.REGION_REBALANCE
        base_head = cls.build_base_head(cfg, input_shape)
        # Only component II reads F: component I alone needs no statistics.
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        counts = torch.ones(num_classes, dtype=torch.int64)
        if options.BALANCED:
            counts = torch.as_tensor(get_class_stats(cfg.DATASETS.TRAIN).image_count)
        return {
            "base_head": base_head,
            "num_classes": num_classes,
            "class_counts": counts,
            "pixel_classifier": options.PIXEL_CLASSIFIER,
            "loss_weight": options.LOSS_WEIGHT,
            "balanced": options.BALANCED,
            "scope": options.SCOPE,
            "label_downsampling": options.LABEL_DOWNSAMPLING,
            "hidden_channels": options.HIDDEN_CHANNELS,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Run the wrapped head and add the region loss in training.

        Args:
            features: the backbone's feature maps by name.
            targets: (N, h, w) labels, needed in training.

        Returns:
            What the base head returns, in training with ``loss_region`` added, a scalar that
            includes lambda. With several processes its average over them is the loss of the whole
            batch.
        """
        if not self.training:
            return self.base_head(features, targets)
        captured: list[Tensor] = []
        with self.classifier_hook(lambda entered, _: captured.append(entered)):
            output, losses = self.base_head(features, targets)
        return output, {**losses, "loss_region": self.region_loss(captured[0], targets)}

    def region_loss(self, pixel_features: Tensor, targets: Tensor) -> Tensor:
        """Eq. 8 times lambda, or plain cross-entropy over regions if not ``balanced``.

        Args:
            pixel_features: (N, C, H, W), what enters the pixel classifier.
            targets: (N, h, w) labels.

        Returns:
            A scalar, zero if no pixel is valid.
        """
        regions, classes = pool_regions(
            pixel_features,
            targets,
            self.num_classes,
            ignore_label=self.ignore_value,
            scope=self.scope,
            downsampling=self.label_downsampling,
        )
        # Without balance all classes count alike, for which Eq. 8 is plain cross-entropy.
        counts = self.class_counts if self.balanced else torch.ones_like(self.class_counts)
        loss = balanced_softmax_loss(self.region_classifier(regions), classes, counts)
        return self.loss_weight * loss

    def loss_normalizers(self, targets: Tensor) -> dict[str, Tensor]:
        """The divisor of each loss: with it, the losses of parts add up to a batch's.

        Args:
            targets: (N, h, w) labels.

        Returns:
            What the base head says of its own losses, if it does; and R as ``loss_region``, if the
            base head tells the stride of its pixel features (``common_stride``).
        """
        base = self.base_head
        normalizers = base.loss_normalizers(targets) if hasattr(base, "loss_normalizers") else {}
        if hasattr(base, "common_stride"):
            height, width = (math.ceil(side / base.common_stride) for side in targets.shape[1:])
            count = count_regions(
                targets,
                (height, width),
                self.num_classes,
                ignore_label=self.ignore_value,
                scope=self.scope,
                downsampling=self.label_downsampling,
            )
            normalizers["loss_region"] = torch.tensor(float(count), device=targets.device)
        return normalizers


def _region_classifier(channels: int, hidden: int, num_classes: int) -> nn.Module:
    classifier = nn.Linear(hidden or channels, num_classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    if not hidden:
        return classifier
    # On pooled regions a 1x1 convolution is a linear layer.
    layer = nn.Linear(channels, hidden)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU(), classifier)
