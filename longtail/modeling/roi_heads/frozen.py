# SPDX-License-Identifier: Apache-2.0
"""ROI heads of second stages: only what the box classifier needs is computed in training.

Shape alphabet:
    R: RoIs sampled for a stage of the box head
    C: channels of a RoI's feature
    K: foreground classes
"""

from typing import Any, NamedTuple

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .roi_heads import LongTailCascadeROIHeads, LongTailROIHeads


class RoIs(NamedTuple):
    """The samples that one stage of the box head learns from.

    Attributes:
        features: (R, C) input of the box classifier.
        classes: (R,) ground truth, K for background.
    """

    features: Tensor
    classes: Tensor


class FrozenHeads:
    """The common part of Mask R-CNN's and Cascade R-CNN's second stages.

    Output layers (``predictor_class``) have a method ``roi_loss`` of (R, C) features and (R,)
    classes that gives a scalar.
    """

    @property
    def predictors(self) -> list[nn.Module]:
        """The output layers of every stage of the box head."""
        several = isinstance(self.box_predictor, nn.ModuleList)
        return list(self.box_predictor) if several else [self.box_predictor]

    def sample_rois(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> list[RoIs]:
        """Sample RoIs as in training and compute their features, stage by stage of the box head.

        Args:
            features: the backbone's maps.
            proposals: proposals of each image.
            targets: ground truth of each image.
        """
        raise NotImplementedError

    def roi_losses(self, rois: list[RoIs]) -> dict[str, Tensor]:
        """The losses of the box classifiers, by the names that they have in detectron2."""
        raise NotImplementedError

    def _box_features(self, features: dict[str, Tensor], boxes: list, box_head: Any) -> Tensor:
        maps = [features[name] for name in self.box_in_features]
        return box_head(self.box_pooler(maps, boxes)).flatten(1)


class FrozenROIHeads(FrozenHeads, LongTailROIHeads):
    """Mask R-CNN's heads, of which the box classifier alone is trained."""

    def sample_rois(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> list[RoIs]:
        """Sample the RoIs, (R, C) features and (R,) classes: a list of one stage."""
        proposals = self.label_and_sample_proposals(proposals, targets)
        boxes = [p.proposal_boxes for p in proposals]
        classes = torch.cat([p.gt_classes for p in proposals])
        return [RoIs(self._box_features(features, boxes, self.box_head), classes)]

    def roi_losses(self, rois: list[RoIs]) -> dict[str, Tensor]:
        """The loss of the box classifier by name, a scalar."""
        return {"loss_cls": self.box_predictor.roi_loss(*rois[0])}


class FrozenCascadeROIHeads(FrozenHeads, LongTailCascadeROIHeads):
    """Cascade R-CNN's heads, of which the box classifier of every stage is trained."""

    def sample_rois(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> list[RoIs]:
        """Sample the first stage's RoIs; each later stage takes the boxes refined before."""
        proposals = self.label_and_sample_proposals(proposals, targets)
        sizes = [p.image_size for p in proposals]
        rois, refined = [], []
        for stage, (head, predictor) in enumerate(
            zip(self.box_head, self.box_predictor, strict=True)
        ):
            if stage > 0:
                # The boxes that the stage before gives are this stage's proposals.
                proposals = self._create_proposals_from_boxes(refined, sizes)
                proposals = self._match_and_label_boxes(proposals, stage, targets)
            boxes = [p.proposal_boxes for p in proposals]
            x = self._box_features(features, boxes, head)
            rois.append(RoIs(x, torch.cat([p.gt_classes for p in proposals])))
            if stage < self.num_cascade_stages - 1:
                refined = predictor.predict_boxes((None, predictor.bbox_pred(x)), proposals)
        return rois

    def roi_losses(self, rois: list[RoIs]) -> dict[str, Tensor]:
        """The loss of every stage by name, scalars."""
        losses = {}
        for stage, (predictor, of_stage) in enumerate(zip(self.box_predictor, rois, strict=True)):
            with get_event_storage().name_scope(f"stage{stage}"):
                losses[f"loss_cls_stage{stage}"] = predictor.roi_loss(*of_stage)
        return losses
