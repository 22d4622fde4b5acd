# SPDX-License-Identifier: Apache-2.0
"""Fast R-CNN's output layers with calibrated class scores.

Shape alphabet:
    R: RoIs
    C: channels of a RoI's feature
    K: foreground classes; the last of the K + 1 scores is the background's
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor

from longtail.losses import BOXES
from longtail.modeling.roi_heads.second_stage import SecondStageOutputLayers

from .calibrated import Calibrated, check_softmax


class DisAlignFastRCNNOutputLayers(Calibrated, SecondStageOutputLayers):
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
        weighted_mean: bool = True,
        calibration: Mapping[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        """Add a calibration to a box classifier.

        Args:
            input_shape: shape of the box features.
            class_weights: (K,) weights w_c of Eq. 11 of the foreground classes.
            class_groups: foreground classes by the name of their group, for the log.
            weighted_mean: see :meth:`.Calibrated.add_calibration`.
            calibration: see :meth:`.Calibrated.add_calibration`.
            kwargs: as for LongTailFastRCNNOutputLayers.

        Raises:
            ValueError: weights of another length than the number of classes, or a class loss
                whose probabilities are not a softmax.
        """
        super().__init__(input_shape, **kwargs)
        check_softmax(self.class_loss, BOXES.loss_key)
        self.add_calibration(
            self.num_classes,
            self.cls_score.in_features,
            class_weights=class_weights,
            class_groups=class_groups,
            weighted_mean=weighted_mean,
            calibration=calibration,
            classes_key=BOXES.classes_key,
            background=True,
        )

    def class_scores(self, features: Tensor) -> Tensor:
        """(R, C) features to (R, K + 1) calibrated scores."""
        scores = self.cls_score(features)
        foreground = self.calibration(scores[:, :-1], features)
        return torch.cat([foreground, scores[:, -1:].to(foreground)], dim=1)

    def roi_loss(self, features: Tensor, classes: Tensor) -> Tensor:
        """The alignment loss of (R, C) features and (R,) classes; confidences go to the log."""
        loss = super().roi_loss(features, classes)
        self.log_calibration(classes)
        return loss

    def classification_loss(self, scores: Tensor, classes: Tensor) -> Tensor:
        """The alignment loss, whatever the first stage's was."""
        return self.alignment_loss(scores, classes)
