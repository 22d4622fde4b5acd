"""Fast R-CNN's output layers with calibrated class scores.

Shape alphabet:
    R: RoIs
    C: channels of a RoI's feature
    K: foreground classes; the last of the K + 1 scores is the background's
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import _log_classification_stats
from torch import Tensor

from longtail.modeling.roi_heads import LongTailFastRCNNOutputLayers

from .calibration import AdaptiveCalibration, log_calibration
from .reference import calibration_options, checked_class_weights, mean_alignment_loss


class DisAlignFastRCNNOutputLayers(LongTailFastRCNNOutputLayers):
    """Output layers whose foreground scores are calibrated (Eq. 5), for the second stage.

    The background's score is left alone and its weight in the loss is 1.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        class_weights: Tensor,
        class_groups: Mapping[str, Sequence[int]],
        magnitude: bool = True,
        margin: bool = True,
        confidence: bool = True,
        confidence_bias: bool = True,
        weighted_mean: bool = True,
        **kwargs,
    ) -> None:
        """
        Args:
            input_shape: shape of the box features.
            class_weights: (K,) w_c of Eq. 11 for the foreground classes.
            class_groups: class indices by frequency group, for the log.
            magnitude, margin, confidence, confidence_bias: see :class:`AdaptiveCalibration`.
            weighted_mean: see :func:`alignment_loss`.
            kwargs: as for LongTailFastRCNNOutputLayers.

        Raises:
            ValueError: weights of another length than the number of classes, or a class loss
                whose probabilities are no softmax.
        """
        super().__init__(input_shape, **kwargs)
        if not self.class_loss.is_softmax:
            raise ValueError(
                "DisAlign calibrates the logits of a softmax, and the first stage's loss "
                f"{type(self.class_loss).__name__} gives none: train it with another "
                "MODEL.ROI_BOX_HEAD.CLASS_LOSS (such as cross_entropy)"
            )
        weights = checked_class_weights(
            class_weights, self.num_classes, "MODEL.ROI_HEADS.NUM_CLASSES"
        )
        # They belong to the data, not to the weights: they stay out of checkpoints.
        weights = torch.cat([weights, weights.new_ones(1)])
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_groups = {name: list(classes) for name, classes in class_groups.items()}
        self.weighted_mean = weighted_mean
        self.calibration = AdaptiveCalibration(
            self.num_classes,
            self.cls_score.in_features,
            magnitude=magnitude,
            margin=margin,
            confidence=confidence,
            confidence_bias=confidence_bias,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {**super().from_config(cfg, input_shape), **calibration_options(cfg)}

    def class_scores(self, features: Tensor) -> Tensor:
        """(R, C) features to (R, K + 1) calibrated scores."""
        scores = self.cls_score(features)
        foreground = self.calibration(scores[:, :-1], features)
        return torch.cat([foreground, scores[:, -1:].to(foreground)], dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Box features (R, C) or (R, C, H, W) to calibrated scores and box deltas."""
        features = x.flatten(1)
        return self.class_scores(features), self.bbox_pred(features)

    def calibration_loss(self, features: Tensor, classes: Tensor) -> Tensor:
        """The alignment loss of RoIs, and nothing else.

        Args:
            features: (R, C) box features.
            classes: (R,) ground truth, K for background.

        Returns:
            A scalar, the ``loss_cls`` that :meth:`losses` gives for the same RoIs.
        """
        scores = self.class_scores(features)
        _log_classification_stats(scores, classes)
        groups = {**self.class_groups, "background": [self.num_classes]}
        log_calibration(self.calibration, self.calibration.confidence(features), classes, groups)
        return self.classification_loss(scores, classes) * self.loss_weight.get("loss_cls", 1.0)

    def classification_loss(self, scores: Tensor, classes: Tensor) -> Tensor:
        """The alignment loss, whatever the first stage's was."""
        return mean_alignment_loss(scores, classes, self.class_weights, self.weighted_mean)
