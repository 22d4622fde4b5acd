# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN's and Cascade R-CNN's ROI heads around output layers of our own."""

import copy
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from torch import nn

from longtail.losses import BOXES, build_loss

from .fast_rcnn import LongTailFastRCNNOutputLayers, check_loss_is_ours


class _OwnPredictor:
    """Exchange the output layers that detectron2's ROI heads build by name."""

    predictor_class = LongTailFastRCNNOutputLayers

    @classmethod
    def predictor_arguments(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the output layers beside those that they read from the config themselves.

        It is called once for all stages of a cascade: statistics are looked up here.
        """
        return {"class_loss": build_loss(cfg, BOXES)}

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        # Before detectron2 builds its own output layers for options of its own.
        check_loss_is_ours(cfg)
        parts = super()._init_box_head(cfg, input_shape)
        arguments = cls.predictor_arguments(cfg)

        def exchange(predictor: nn.Module, head: nn.Module) -> nn.Module:
            # Every stage of a cascade has its own box transform, and a loss that counts for itself.
            transform = {"box2box_transform": predictor.box2box_transform}
            own = copy.deepcopy(arguments)
            return cls.predictor_class(cfg, head.output_shape, **transform, **own)

        if "box_predictors" in parts:
            pairs = zip(parts["box_predictors"], parts["box_heads"], strict=True)
            parts["box_predictors"] = [exchange(*pair) for pair in pairs]
        else:
            parts["box_predictor"] = exchange(parts["box_predictor"], parts["box_head"])
        return parts


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(_OwnPredictor, StandardROIHeads):
    """detectron2's StandardROIHeads (Mask R-CNN) with a classifier and a loss of choice.

    ``MODEL.ROI_BOX_HEAD.CLASSIFIER`` and ``CLASS_LOSS`` name them.
    """


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(_OwnPredictor, CascadeROIHeads):
    """detectron2's CascadeROIHeads with the same choices at every stage."""
