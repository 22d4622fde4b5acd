# SPDX-License-Identifier: Apache-2.0
"""The second stage of a detector: everything frozen but the calibration."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from torch import Tensor, nn

from .calibrated import NO_DECAY, TRAINED
from .roi_heads import RoIs

SECOND_STAGE_HEADS = {
    "LongTailROIHeads": "DisAlignROIHeads",
    "LongTailCascadeROIHeads": "DisAlignCascadeROIHeads",
}


@META_ARCH_REGISTRY.register()
class DisAlignRCNN(GeneralizedRCNN):
    """Mask or Cascade R-CNN with calibrated class scores.

    It takes the config of the first stage, and by itself exchanges the ROI heads for those with a
    calibration. In training the backbone, the proposals and the RoIs' features are computed
    without gradients; the losses of the proposals, boxes and masks are not computed at all.
    """

    trained_module_names = TRAINED
    no_decay_params = NO_DECAY

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read detectron2's arguments, with the calibrated counterpart of MODEL.ROI_HEADS.NAME.

        Raises:
            ValueError: the ROI heads do not have a calibrated counterpart.
        """
        name = cfg.MODEL.ROI_HEADS.NAME
        if name not in SECOND_STAGE_HEADS:
            raise ValueError(
                f"DisAlignRCNN knows the ROI heads {', '.join(SECOND_STAGE_HEADS)}, got "
                f"MODEL.ROI_HEADS.NAME {name}: take the config of the first stage"
            )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.ROI_HEADS.NAME = SECOND_STAGE_HEADS[name]
        return super().from_config(cfg)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Compute the calibration's losses in training, otherwise detectron2's predictions."""
        if not self.training:
            return self.inference(batched_inputs)
        return self.roi_heads.calibration_losses(self.sample_rois(batched_inputs))

    @torch.no_grad()
    def sample_rois(self, batched_inputs: list[dict]) -> list[RoIs]:
        """The frozen part of a training step.

        Called by itself, it wants the frozen modules in evaluation mode, see
        :func:`longtail.engine.training.stages.evaluate_frozen_modules`; :meth:`forward` sees to
        that.

        Args:
            batched_inputs: detectron2's dicts with ``image`` and ``instances``, or items of a
                feature cache with ``rois``, one :class:`.RoIs` for each stage of the box head.

        Returns:
            RoIs of the batch, one item for each stage of the box head.
        """
        if "rois" in batched_inputs[0]:
            stages = zip(*(item["rois"] for item in batched_inputs), strict=True)
            return [
                RoIs(*(torch.cat(part).to(self.device) for part in zip(*stage, strict=True)))
                for stage in stages
            ]
        images = self.preprocess_image(batched_inputs)
        targets = [item["instances"].to(self.device) for item in batched_inputs]
        features = self.backbone(images.tensor)
        # In evaluation mode the RPN computes no loss, but keeps fewer proposals than in training.
        with _as_many_proposals_as_in_training(self.proposal_generator):
            proposals, _ = self.proposal_generator(images, features)
        return self.roi_heads.sample_rois(features, proposals, targets)


@contextmanager
def _as_many_proposals_as_in_training(rpn: nn.Module) -> Iterator[None]:
    limits = (rpn.pre_nms_topk, rpn.post_nms_topk)
    was_training = rpn.training
    rpn.pre_nms_topk, rpn.post_nms_topk = ({False: limit[True]} for limit in limits)
    rpn.eval()
    try:
        yield
    finally:
        rpn.pre_nms_topk, rpn.post_nms_topk = limits
        rpn.train(was_training)
