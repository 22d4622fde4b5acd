# SPDX-License-Identifier: Apache-2.0
"""Second stages of a detector: everything is frozen but a part of its box classifiers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from torch import Tensor, nn

from .roi_heads import RoIs


class SecondStageRCNN(GeneralizedRCNN):
    """Mask or Cascade R-CNN on frozen features.

    It takes the config of the first stage, and by itself exchanges the ROI heads for those of the
    second. In training the backbone, the proposals and the RoIs' features are computed without
    gradients; the losses of the proposals, boxes and masks are not computed at all.

    Attributes:
        trained_module_names: see :mod:`longtail.engine.training.stages`.
        second_stage_heads: from MODEL.ROI_HEADS.NAME of the first stage to that of the second.
    """

    trained_module_names: tuple[str, ...] = ()
    second_stage_heads: Mapping[str, str] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read detectron2's arguments, with the second stage's counterpart of MODEL.ROI_HEADS.NAME.

        Raises:
            ValueError: the ROI heads do not have a counterpart.
        """
        name = cfg.MODEL.ROI_HEADS.NAME
        if name not in cls.second_stage_heads:
            raise ValueError(
                f"{cls.__name__} knows the ROI heads {', '.join(cls.second_stage_heads)}, got "
                f"MODEL.ROI_HEADS.NAME {name}: take the config of the first stage"
            )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.ROI_HEADS.NAME = cls.second_stage_heads[name]
        return super().from_config(cfg)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Compute the classifiers' losses in training, otherwise detectron2's predictions."""
        if not self.training:
            return self.inference(batched_inputs)
        return self.roi_heads.roi_losses(self.sample_rois(batched_inputs))

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


@META_ARCH_REGISTRY.register()
class RetrainedRCNN(SecondStageRCNN):
    """cRT, or balanced group softmax, for boxes: a new classifier on a finished detector.

    With class-balanced images it is the method of Kang et al., with the loss ``bags`` that of
    Li et al.; on a balanced training set it is the empirical bound. The first stage's
    classifier stays in the checkpoint.
    """

    trained_module_names = ("retrained_classifier", "class_loss")
    second_stage_heads = {  # noqa: RUF012  (a Mapping, which nothing changes)
        "LongTailROIHeads": "RetrainedROIHeads",
        "LongTailCascadeROIHeads": "RetrainedCascadeROIHeads",
    }


@META_ARCH_REGISTRY.register()
class ScaledRCNN(SecondStageRCNN):
    """LWS for boxes: a factor for each foreground class; the background's score stays.

    At the start all factors are 1: the detections are exactly the first stage's.
    """

    trained_module_names = ("scaling", "class_loss")
    # As of images: the factors are learned from the data alone.
    no_decay_params = ("factor",)
    second_stage_heads = {  # noqa: RUF012
        "LongTailROIHeads": "ScaledROIHeads",
        "LongTailCascadeROIHeads": "ScaledCascadeROIHeads",
    }


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
