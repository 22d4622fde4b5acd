# SPDX-License-Identifier: Apache-2.0
"""The second stage of semantic segmentation: a frozen head whose pixel scores are calibrated.

Shape alphabet:
    N: images of the batch
    C: channels of the pixel features
    H, W: height and width of the pixel features
    h, w: height and width of the (padded) images and their label maps
    K: classes
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from longtail.data.statistics.class_stats import ClassStats
from longtail.data.statistics.groups import groups_by_pixel_share
from longtail.losses import PIXELS
from longtail.losses.pixels import nearest_labels
from longtail.modeling.sem_seg.second_stage import SecondStageSemSegHead

from .calibrated import NO_DECAY, TRAINED, Calibrated
from .reference import calibration_arguments

# What to do about a first stage's tensors, by a part of their names.
REMEDIES = {
    "region_classifier.": "They are of a head with a region branch: set "
    "MODEL.DISALIGN.BASE_HEAD_NAME to RegionRebalanceHead"
}


def label_map_groups(cfg: CfgNode, stats: ClassStats) -> Mapping[str, Sequence[int]]:
    """The evaluator's groups of the classes, those of the data set or by their pixels."""
    own = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("class_groups", None)
    return own or groups_by_pixel_share(stats.pixel_count)


@SEM_SEG_HEADS_REGISTRY.register()
class DisAlignSemSegHead(Calibrated, SecondStageSemSegHead):
    """Wrap a trained semantic head and calibrate its scores (Eq. 5) at every pixel.

    The calibration takes the place of the pixel classifier's output, at the resolution of the
    features.
    """

    config_node = "DISALIGN"
    own_module = "calibration"
    trained_module_names = TRAINED
    no_decay_params = NO_DECAY
    remedies = REMEDIES

    @configurable
    def __init__(
        self,
        base_head: nn.Module,
        *,
        num_classes: int,
        class_weights: Tensor,
        class_groups: Mapping[str, Sequence[int]],
        pixel_classifier: str = "predictor",
        loss_weight: float = 1.0,
        weighted_mean: bool = True,
        pad_to_stride: bool = True,
        calibration: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a trained head and add a calibration.

        Args:
            base_head: the trained head, see :class:`.SemSegHeadWrapper`.
            num_classes: K.
            class_weights: (K,) weights w_c of Eq. 11.
            class_groups: classes by the name of their group, for the log.
            weighted_mean: see :meth:`.Calibrated.add_calibration`.
            calibration: see :meth:`.Calibrated.add_calibration`.
            pixel_classifier: name of its classifier, whose logits are calibrated.
            loss_weight: factor of the loss.
            pad_to_stride: how the segmentor brings logits to the size of the image, see
                :class:`longtail.modeling.LongTailSemanticSegmentor`: the loss is that of the
                logits in testing.

        Raises:
            ValueError: weights of another length than the number of classes, or no such submodule.
        """
        super().__init__(
            base_head, pixel_classifier, loss_weight=loss_weight, pad_to_stride=pad_to_stride
        )
        self.add_calibration(
            num_classes,
            self.pixel_channels,
            class_weights=class_weights,
            class_groups=class_groups,
            weighted_mean=weighted_mean,
            calibration=calibration,
            classes_key=PIXELS.classes_key,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Build the wrapped head, and read the weights from the training set's pixels."""
        head = cfg.MODEL.SEM_SEG_HEAD
        arguments = calibration_arguments(
            cfg, "pixel_count", head.NUM_CLASSES, lambda stats: label_map_groups(cfg, stats)
        )
        return {
            "base_head": cls.build_base_head(cfg, input_shape),
            "num_classes": head.NUM_CLASSES,
            "pixel_classifier": cfg.MODEL.DISALIGN.PIXEL_CLASSIFIER,
            "loss_weight": head.LOSS_WEIGHT,
            "pad_to_stride": head.PAD_TO_STRIDE,
            **arguments,
        }

    def changed_scores(self, entered: Tensor, logits: Tensor) -> Tensor:
        """(N, C, H, W) pixel features and (N, K, H, W) logits to (N, K, H, W) calibrated ones."""
        return self.calibration.calibrate_map(logits, entered)

    def pixel_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The alignment loss: (N, K, h, w) calibrated logits and (N, h, w) labels to a scalar."""
        size = self.calibration.last_confidence.shape[2:]
        self.log_calibration(nearest_labels(targets, size))
        return self.alignment_loss(logits, targets, self.ignore_value)

    def loss_normalizers(self, targets: Tensor) -> dict[str, Tensor]:
        """The divisor of the loss: with it, the losses of parts add up to a batch's.

        Args:
            targets: (N, h, w) labels.
        """
        return {"loss_sem_seg": self.alignment_normalizer(targets, self.ignore_value)}
