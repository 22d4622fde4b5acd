# SPDX-License-Identifier: Apache-2.0
"""Fast R-CNN's output layers with a linear or a cosine classifier and one of the class losses.

Shape alphabet:
    R: RoIs
    K: foreground classes; background is the class K
    D: outputs of the classifier, K + 1 for most losses
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from longtail.losses import BOXES, ClassLoss, CrossEntropy, SigmoidLoss
from longtail.modeling.cosine import cosine_classifier
from longtail.utils.detectron2 import own_class_losses

CLASSIFIERS = ("linear", "cosine")


class LongTailFastRCNNOutputLayers(FastRCNNOutputLayers):
    """detectron2's output layers.

    ``cls_score`` is linear or a :class:`~longtail.modeling.CosineLinear`.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        classifier: str = "linear",
        class_loss: ClassLoss | None = None,
        **kwargs: object,
    ) -> None:
        """Fit detectron2's classifier to the class loss, or replace it by a cosine classifier.

        Args:
            input_shape: shape of the box features, (C,) or (C, H, W).
            classifier: ``"linear"`` or ``"cosine"``.
            class_loss: of K classes and background; by default cross-entropy.
            kwargs: as for detectron2's FastRCNNOutputLayers.

        Raises:
            ValueError: another classifier, or one that the loss cannot start with.
        """
        super().__init__(input_shape, **kwargs)
        self.class_loss = class_loss or CrossEntropy(self.num_classes, background=True)
        if classifier not in CLASSIFIERS:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.CLASSIFIER must be one of {CLASSIFIERS}, got {classifier!r}"
            )
        in_features, out_features = self.cls_score.in_features, self.class_loss.num_logits
        if classifier == "cosine":
            self.cls_score = cosine_classifier(
                "MODEL.ROI_BOX_HEAD.CLASSIFIER", in_features, self.class_loss
            )
            return
        # detectron2's own is kept where it fits: a new one would draw other random numbers.
        if out_features != self.cls_score.out_features:
            self.cls_score = nn.Linear(in_features, out_features)
            nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.constant_(self.cls_score.bias, self.class_loss.initial_bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read detectron2's arguments and MODEL.ROI_BOX_HEAD.CLASSIFIER.

        Raises:
            ValueError: the config turns a class loss of detectron2's own on.
        """
        check_loss_is_ours(cfg)
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "classifier": cfg.MODEL.ROI_BOX_HEAD.CLASSIFIER}

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute detectron2's losses with the class loss as ``loss_cls``.

        Args:
            predictions: (R, D) logits and box deltas.
            proposals: of each image, with their ground truth.
        """
        logits, deltas = predictions
        losses = super().losses((self._logged_scores(logits.detach()), deltas), proposals)
        classes = torch.cat([p.gt_classes for p in proposals])
        loss = self.classification_loss(logits, classes)
        return {**losses, "loss_cls": loss * self.loss_weight.get("loss_cls", 1.0)}

    def classification_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The loss of (R, D) logits of RoIs whose ground truth is (R,), K for background."""
        return self.class_loss(logits, classes)

    def _logged_scores(self, logits: Tensor) -> Tensor:
        """(R, K + 1) scores whose largest is the prediction in detectron2's log."""
        if self.class_loss.is_softmax:
            return logits
        scores = self.class_loss.probabilities(logits)
        if isinstance(self.class_loss, SigmoidLoss) and not self.class_loss.trains_background:
            # Background is what no class claims with more than one half.
            scores[:, -1] = 0.5
        return scores

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """(R, K + 1) probabilities, for each image those of its proposals."""
        probabilities = self.class_loss.probabilities(predictions[0])
        return probabilities.split([len(p) for p in proposals])


def check_loss_is_ours(cfg: CfgNode) -> None:
    """Refuse a second class loss beside ours.

    Raises:
        ValueError: the config turns a class loss of detectron2's own on.
    """
    if keys := own_class_losses(cfg):
        raise ValueError(
            f"{keys[0]} must be False: {BOXES.loss_key} names the loss (such as federated)"
        )


def check_box_classifier(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse options that only :class:`.LongTailFastRCNNOutputLayers` reads, where it is not used.

    Args:
        cfg: a complete config.
        model: what was built from it.

    Raises:
        ValueError: the config asks for another classifier or class loss than detectron2's.
    """
    if any(isinstance(module, LongTailFastRCNNOutputLayers) for module in model.modules()):
        return
    for key, default in (("CLASS_LOSS", "cross_entropy"), ("CLASSIFIER", "linear")):
        value = cfg.MODEL.ROI_BOX_HEAD[key]
        if value != default:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.{key} {value} needs MODEL.ROI_HEADS.NAME LongTailROIHeads or "
                f"LongTailCascadeROIHeads, got {cfg.MODEL.ROI_HEADS.NAME} in "
                f"{cfg.MODEL.META_ARCHITECTURE}"
            )
