# SPDX-License-Identifier: Apache-2.0
"""cRT, balanced group softmax and LWS for boxes: the classifier of a finished detector.

Shape alphabet:
    R: RoIs
    C: channels of a RoI's feature
    K: foreground classes; the last of the K + 1 scores is the background's
    D: outputs of the classifier that is trained, K + 1 for most losses
"""

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads.fast_rcnn import _log_classification_stats
from torch import Tensor, nn

from longtail.modeling.cosine import CosineLinear
from longtail.modeling.scaling import ClassScaling

from .fast_rcnn import LongTailFastRCNNOutputLayers
from .frozen import FrozenCascadeROIHeads, FrozenROIHeads


class SecondStageOutputLayers(LongTailFastRCNNOutputLayers):
    """Output layers whose scores are those of a part that is trained on frozen features."""

    def class_scores(self, features: Tensor) -> Tensor:
        """(R, C) features to (R, D) scores."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Box features (R, C) or (R, C, H, W) to scores and box deltas."""
        features = x.flatten(1)
        return self.class_scores(features), self.bbox_pred(features)

    def roi_loss(self, features: Tensor, classes: Tensor) -> Tensor:
        """The class loss of RoIs, and nothing else.

        Args:
            features: (R, C) box features.
            classes: (R,) ground truth, K for background.

        Returns:
            A scalar, the ``loss_cls`` that ``losses`` gives for the same RoIs.
        """
        scores = self.class_scores(features)
        _log_classification_stats(self._logged_scores(scores.detach()), classes)
        return self.classification_loss(scores, classes) * self.loss_weight.get("loss_cls", 1.0)


class RetrainedFastRCNNOutputLayers(SecondStageOutputLayers):
    """A new classifier beside that of the first stage, which is one of K + 1 scores.

    The loss may be another than the first stage's: with ``bags`` it is balanced group softmax as
    its authors train it.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, classifier: str = "linear", **kwargs: object
    ) -> None:
        """Add a new classifier.

        Args:
            input_shape: shape of the box features, (C,) or (C, H, W).
            classifier: type of both, ``"linear"`` or ``"cosine"``.
            kwargs: as for LongTailFastRCNNOutputLayers.
        """
        super().__init__(input_shape, classifier=classifier, **kwargs)
        self.retrained_classifier = self.cls_score
        layer = CosineLinear if classifier == "cosine" else nn.Linear
        self.cls_score = layer(self.cls_score.in_features, self.num_classes + 1)

    def class_scores(self, features: Tensor) -> Tensor:
        """(R, C) features to (R, D) scores of the new classifier."""
        return self.retrained_classifier(features)


class ScaledFastRCNNOutputLayers(SecondStageOutputLayers):
    """LWS: z_j = f_j (w_j.x + b_j) for foreground classes; the background's score stays."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, **kwargs: object) -> None:
        """Add one factor for each foreground class.

        Args:
            input_shape: shape of the box features, (C,) or (C, H, W).
            kwargs: as for LongTailFastRCNNOutputLayers.
        """
        super().__init__(input_shape, **kwargs)
        self.scaling = ClassScaling(self.num_classes)

    def class_scores(self, features: Tensor) -> Tensor:
        """(R, C) features to (R, D) scaled scores."""
        return self.scaling(self.cls_score(features))


@ROI_HEADS_REGISTRY.register()
class RetrainedROIHeads(FrozenROIHeads):
    """Mask R-CNN's heads with a new box classifier."""

    predictor_class = RetrainedFastRCNNOutputLayers


@ROI_HEADS_REGISTRY.register()
class RetrainedCascadeROIHeads(FrozenCascadeROIHeads):
    """Cascade R-CNN's heads with a new box classifier at every stage."""

    predictor_class = RetrainedFastRCNNOutputLayers


@ROI_HEADS_REGISTRY.register()
class ScaledROIHeads(FrozenROIHeads):
    """Mask R-CNN's heads with scaled scores."""

    predictor_class = ScaledFastRCNNOutputLayers


@ROI_HEADS_REGISTRY.register()
class ScaledCascadeROIHeads(FrozenCascadeROIHeads):
    """Cascade R-CNN's heads with scaled scores at every stage."""

    predictor_class = ScaledFastRCNNOutputLayers
